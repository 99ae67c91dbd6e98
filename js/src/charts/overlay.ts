// The playhead above a plot: its token, the token under the pointer, and what comes after, dimmed.
//
// These are elements and not a part of the canvas, so that the playhead moves without redrawing
// thousands of marks.

import { el } from "../widget/dom";
import { MARGIN } from "./axes";
import type { Axis } from "./step-range";

export class Overlay {
  readonly node: HTMLElement;
  readonly #future = el("div", "oj-veil");
  readonly #playhead = el("div", "oj-mark oj-playhead");
  readonly #preview = el("div", "oj-mark oj-preview");

  constructor() {
    const parts = [this.#future, this.#playhead, this.#preview];
    this.node = el("div", "oj-overlay", { "aria-hidden": "true" }, ...parts);
  }

  /** Mark the playhead's step and the previewed one on an axis that ends at `base`. */
  place(axis: Axis, base: number, at: number | null, step: number | null): void {
    const { from, to } = axis.shown;
    const after = at === null ? to : Math.max(from, at + 1);
    this.#future.hidden = after >= to;
    if (after < to) stretch(this.#future, axis.left(after), axis.left(to), base - MARGIN.top);
    this.#mark(this.#playhead, axis, base, at);
    this.#mark(this.#preview, axis, base, step === at ? null : step);
  }

  #mark(node: HTMLElement, axis: Axis, base: number, step: number | null): void {
    const { from, to } = axis.shown;
    node.hidden = step === null || step < from || step >= to;
    if (node.hidden) return;
    const [left, right] = [axis.left(step!), axis.left(step! + 1)];
    const width = Math.max(3, right - left);
    const middle = (left + right) / 2;
    // The foot lies below the axis, where no bar hides it.
    stretch(node, middle - width / 2, middle + width / 2, base - MARGIN.top + 4);
  }
}

function stretch({ style }: HTMLElement, left: number, right: number, height: number): void {
  style.top = `${MARGIN.top}px`;
  style.left = `${left.toFixed(2)}px`;
  style.width = `${(right - left).toFixed(2)}px`;
  style.height = `${height}px`;
}
