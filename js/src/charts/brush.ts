// Zooming by the pointer and the keyboard: a drag over a plot chooses the steps that all charts
// show; a double click, 0 or Escape shows all again, + and − show fewer and more.

import { el, modified } from "../widget/dom";
import { MARGIN } from "./axes";
import { consume, type Focus } from "./focus";
import type { Axis } from "./step-range";

/** A drag shorter than this, in CSS pixels, is a click. */
const LEAST_DRAG = 5;

export class Brush {
  /** The band over the steps that the drag has passed so far. */
  readonly #band = el("div", "oj-brush", { hidden: true });
  #start: number | null = null;
  #dragged = false;

  /** `axis` is that of the last drawing; null before it. */
  constructor(
    private readonly node: HTMLElement,
    private readonly axis: () => Axis | null,
    private readonly focus: Focus,
    signal: AbortSignal,
  ) {
    const on = <Type extends keyof HTMLElementEventMap>(
      type: Type,
      listener: (event: HTMLElementEventMap[Type]) => void,
    ) => node.addEventListener(type, listener, { signal });
    on("pointerdown", (event) => {
      this.#dragged = false;
      if (event.button === 0 && axis()) this.#start = this.#xOf(event);
    });
    on("pointermove", (event) => this.#drag(event));
    on("pointerup", (event) => this.#end(event));
    on("pointercancel", () => this.#stop());
    on("dblclick", () => focus.zoom.reset());
    on("keydown", (event) => this.#key(event));
    // The click after a drag does not move the playhead.
    on("click", (event) => {
      if (this.#dragged) event.stopImmediatePropagation();
      this.#dragged = false;
    });
  }

  #xOf(event: PointerEvent): number {
    const { left, width } = this.node.getBoundingClientRect();
    return Math.max(MARGIN.left, Math.min(width - MARGIN.right, event.clientX - left));
  }

  #drag(event: PointerEvent): void {
    if (this.#start === null) return;
    const x = this.#xOf(event);
    if (!this.#dragged && Math.abs(x - this.#start) < LEAST_DRAG) return;
    if (!this.#dragged) {
      this.#dragged = true;
      // A pointer that a script made cannot be captured.
      if (event.isTrusted) this.node.setPointerCapture(event.pointerId);
      this.node.after(this.#band);
    }
    this.#band.hidden = false;
    this.#band.style.left = `${Math.min(x, this.#start)}px`;
    this.#band.style.width = `${Math.abs(x - this.#start)}px`;
  }

  #end(event: PointerEvent): void {
    const axis = this.axis();
    if (this.#start !== null && this.#dragged && axis) {
      const [low, high] = [this.#start, this.#xOf(event)].sort((a, b) => a - b);
      const { from, to } = axis.shown;
      const first = Math.max(from, axis.step(low));
      this.focus.zoom.set(first, Math.max(first + 1, Math.min(to, axis.step(high) + 1)));
    }
    this.#stop();
  }

  #stop(): void {
    this.#start = null;
    this.#band.hidden = true;
  }

  #key(event: KeyboardEvent): void {
    const axis = this.axis();
    const { zoom } = this.focus;
    if (modified(event) || !axis) return;
    const { shown } = axis;
    const middle = Math.floor((shown.from + shown.to) / 2);
    const at = this.focus.at ?? middle;
    const centre = at >= shown.from && at < shown.to ? at : middle;
    if (event.key === "+" || event.key === "=") zoom.scale(0.5, shown, centre);
    else if (event.key === "-" && zoom.active) zoom.scale(2, shown, centre);
    else if ((event.key === "0" || event.key === "Escape") && zoom.active) zoom.reset();
    else return;
    consume(event);
  }
}
