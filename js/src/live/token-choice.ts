// Choosing tokens in the text: with the pointer, by a selection of the text, with the keys.
//
// A click moves the playhead. Shift extends the choice from the playhead to the token clicked or
// reached by an arrow key, as in a text editor; Ctrl or Cmd adds a token or takes it off.

import { consume, type Focus } from "../charts/focus";
import { modified } from "../widget/dom";
import type { TextLog } from "./panels/text-log";
import type { RunState } from "./state";

export class TokenChoice {
  /** The token where a choice of several began. */
  #anchor: number | null = null;
  /** Whether the page's selection made the choice. */
  #bySelection = false;

  constructor(
    private readonly log: TextLog,
    private readonly state: RunState,
    private readonly focus: Focus,
    signal: AbortSignal,
  ) {
    const { node } = log;
    const at = (event: Event) => log.stepAt(event.target);
    const options = { signal };
    node.addEventListener("pointerover", (event) => focus.hoverStep(at(event)), options);
    node.addEventListener("pointerleave", () => focus.hoverStep(null), options);
    node.addEventListener("blur", () => focus.hoverStep(null), options);
    const down = (event: MouseEvent) => {
      // Shift would extend a selection that began elsewhere.
      if (event.shiftKey && at(event) !== null) event.preventDefault();
    };
    node.addEventListener("mousedown", down, options);
    node.addEventListener("click", (event) => this.#clicked(event, at(event)), options);
    node.addEventListener("keydown", (event) => this.#pressed(event), options);
    document.addEventListener("selectionchange", () => this.#selected(), options);
  }

  #clicked(event: MouseEvent, step: number | null): void {
    if (step === null) return;
    const { focus } = this;
    if (event.shiftKey) {
      this.#extend(step);
    } else if (event.ctrlKey || event.metaKey) {
      const { chosen } = focus;
      const others = chosen.filter((each) => each !== step);
      focus.choose(others.length < chosen.length ? others : [...chosen, step]);
    } else if (!this.#selection) {
      this.focus.choose([]);
      focus.moveTo(step);
    }
  }

  #pressed(event: KeyboardEvent): void {
    const { state, focus } = this;
    const last = state.steps.end - 1;
    if (modified(event)) return;
    const from = focus.at ?? last;
    const reached: Record<string, number> = {
      ...{ ArrowLeft: from - 1, ArrowRight: from + 1 },
      ...{ Home: Math.max(state.firstToken, state.steps.first), End: last },
    };
    if (event.shiftKey && event.key in reached) {
      consume(event);
      this.#extend(reached[event.key]);
    } else if (event.key === "Enter" || event.key === " ") {
      consume(event);
      this.focus.choose([]);
      focus.moveTo(focus.step ?? last);
    } else if (event.key.startsWith("Arrow")) {
      this.focus.choose([]); // the view moves the playhead
    }
  }

  /** Choose all tokens from where the choice began to `step`, and move the playhead there. */
  #extend(step: number): void {
    const { focus } = this;
    if (!focus.chosen.length) this.#anchor = focus.at;
    focus.moveTo(step);
    const to = focus.at ?? step;
    this.#anchor ??= to;
    const [first, last] = [Math.min(this.#anchor, to), Math.max(this.#anchor, to)];
    focus.choose(this.log.steps.filter((each) => each >= first && each <= last));
  }

  /** The tokens that the page's selection covers are chosen, while it covers any. */
  #selected(): void {
    const range = this.#selection;
    const steps = range ? this.log.stepsIn(range) : [];
    if (!steps.length) return;
    this.#anchor = steps[0];
    this.#bySelection = true;
    this.focus.choose(steps);
  }

  /** Once the choice has ended, end the selection that made it. */
  settle(): void {
    if (this.focus.chosen.length) return;
    if (this.#bySelection && this.#selection) this.#pageSelection?.removeAllRanges();
    this.#bySelection = false;
    this.#anchor = null;
  }

  get #pageSelection(): Selection | null {
    // Of a view in a shadow tree only the tree's own root knows the selection, in some browsers.
    const root = this.log.node.getRootNode() as Document;
    return root.getSelection?.() ?? getSelection();
  }

  /** The page's selection, if it is not empty and lies in the text. */
  get #selection(): Range | null {
    const selection = this.#pageSelection;
    if (!selection?.rangeCount || selection.isCollapsed) return null;
    const range = selection.getRangeAt(0);
    return range.intersectsNode(this.log.node) ? range : null;
  }
}
