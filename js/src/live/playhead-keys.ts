// The keys that move the playhead, from anywhere in the view where the focus is not in a control
// that needs them.

import { consume, type Focus } from "../charts/focus";
import { modified, shareShortcuts } from "../widget/dom";
import type { Playback } from "./playback";

const KEYS = new Set(["ArrowLeft", "ArrowRight", "Home", "End"]);

/** Controls with a use of their own for these keys; maps take theirs before they reach the root. */
const CONTROLS = 'select, input:not([type="range"]), textarea, .oj-table, [role="menu"] *';

/** Texts that Home and End scroll. */
const SCROLLERS = ".oj-log, .oj-explain-body";

export function watchPlayheadKeys(
  root: HTMLElement,
  playback: Playback,
  focus: Focus,
  changed: () => void,
  signal: AbortSignal,
): void {
  const pressed = (event: KeyboardEvent) => {
    if (event.defaultPrevented || modified(event)) return;
    const target = event.target as Element;
    if (event.key === "Escape" && focus.any) {
      consume(event);
      focus.clear();
      return;
    }
    if (!KEYS.has(event.key) || target.closest(CONTROLS)) return;
    if (!event.key.startsWith("Arrow") && target.closest(SCROLLERS)) return;
    const far: Record<string, string> = { ArrowLeft: "PageDown", ArrowRight: "PageUp" };
    consume(event);
    focus.hoverStep(null);
    playback.key(event.shiftKey ? (far[event.key] ?? event.key) : event.key);
    focus.expertLast = false;
    changed();
  };
  shareShortcuts(root);
  root.addEventListener("keydown", pressed, { signal });
  // A button that is hidden by what it does would leave the focus, and the next keys, to the page.
  const left = ({ target, relatedTarget }: FocusEvent) => {
    const hidden =
      !relatedTarget && !(target as Element).checkVisibility() && root.checkVisibility();
    if (hidden) root.focus({ preventScroll: true });
  };
  root.addEventListener("focusout", left, { signal });
}
