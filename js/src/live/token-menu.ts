// The context menu of a token: right click, or the menu key, on a token in the text or in a plot.
// The key E leads to the explanation as well.

import { consume, type Focus } from "../charts/focus";
import { el, focusBeside, modified } from "../widget/dom";
import type { ExplainPanel } from "./panels/explain";
import type { Playback } from "./playback";

/** What the menu does with a token, by its label. */
export type TokenActions = Record<string, (step: number) => void>;

/** Where the view's own menu opens; elsewhere the browser's does. */
const TOKENS = ".oj-token, .oj-log, .oj-latency .oj-canvas, .oj-time .oj-canvas";

/** Controls that take letters themselves. */
const TYPING = "input, textarea, select, [contenteditable]";

/** Give the view `root` the menu, and the key E. `map` shows the chosen experts. */
export function addTokenMenu(
  root: HTMLElement,
  focus: Focus,
  playback: Playback,
  explain: ExplainPanel,
  map: HTMLElement,
  changed: () => void,
  signal: AbortSignal,
): void {
  const actions: TokenActions = {
    "Explain this token": (step) => {
      focus.moveTo(step);
      explain.focusText();
    },
    "Play from here": (step) => {
      playback.moveTo(step);
      playback.toggle(performance.now());
      changed();
    },
    "Show its experts": (step) => {
      focus.moveTo(step);
      map.querySelector<HTMLElement>(".oj-canvas")?.focus();
    },
  };
  new TokenMenu(root, focus, actions, signal);
  const pressed = (event: KeyboardEvent) => {
    const busy = event.defaultPrevented || modified(event);
    if (event.key !== "e" || busy || (event.target as Element).closest(TYPING)) return;
    consume(event);
    // The token under the pointer or the playhead; without one the hint that is shown.
    if (focus.step !== null && focus.step !== focus.at) focus.moveTo(focus.step);
    explain.focusText();
  };
  root.addEventListener("keydown", pressed, { signal });
}

export class TokenMenu {
  readonly node = el("div", "oj-menu", { role: "menu", "aria-label": "Token", hidden: true });
  #step = 0;
  #opener: HTMLElement | null = null;

  constructor(
    private readonly root: HTMLElement,
    private readonly focus: Focus,
    actions: TokenActions,
    signal: AbortSignal,
  ) {
    for (const [label, act] of Object.entries(actions)) {
      const item = el("button", "oj-menu-item", { type: "button", role: "menuitem" }, label);
      item.addEventListener("click", () => {
        this.#close();
        act(this.#step);
      });
      this.node.append(item);
    }
    root.append(this.node);
    root.addEventListener("contextmenu", (event) => this.#open(event), { signal });
    this.node.addEventListener("keydown", (event) => this.#key(event), { signal });
    document.addEventListener(
      "pointerdown",
      (event) => {
        if (!this.node.contains(event.target as Node)) this.#close(false);
      },
      { signal },
    );
  }

  #open(event: MouseEvent): void {
    const target = event.target as HTMLElement;
    const { step } = this.focus;
    // A user who has selected text wants the browser's menu, to copy it.
    if (step === null || !target.closest(TOKENS) || getSelection()?.isCollapsed === false) return;
    consume(event);
    this.#step = step;
    this.#opener = target.closest<HTMLElement>("[tabindex]");
    this.node.hidden = false;
    const { left, top, width, height } = this.root.getBoundingClientRect();
    const { offsetWidth, offsetHeight } = this.node;
    const x = Math.min(event.clientX - left, width - offsetWidth - 4);
    const y = Math.min(event.clientY - top, height - offsetHeight - 4);
    this.node.style.left = `${Math.max(0, x)}px`;
    this.node.style.top = `${Math.max(0, y)}px`;
    this.#items[0].focus();
  }

  get #items(): HTMLElement[] {
    return [...this.node.children] as HTMLElement[];
  }

  #close(refocus = true): void {
    if (this.node.hidden) return;
    this.node.hidden = true;
    if (refocus) this.#opener?.focus({ preventScroll: true });
  }

  #key(event: KeyboardEvent): void {
    const items = this.#items;
    const at = items.indexOf(focusBeside(this.node) as HTMLElement);
    const targets: Record<string, number> = {
      ...{ ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 },
    };
    if (event.key in targets) items.at(targets[event.key] % items.length)?.focus();
    else if (event.key === "Escape" || event.key === "Tab") this.#close();
    else return;
    consume(event);
  }
}
