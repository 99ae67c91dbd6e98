// A canvas that keeps its pixels in step with its box, and draws only when asked.

import { el } from "./dom";

export class Canvas {
  readonly node: HTMLCanvasElement;
  readonly context: CanvasRenderingContext2D;
  /** Size in CSS pixels. */
  width = 0;
  height = 0;
  scale = 1;

  constructor(label: string) {
    this.node = el("canvas", "oj-canvas", { role: "img", tabindex: "0", "aria-label": label });
    this.context = this.node.getContext("2d")!;
  }

  /** Take the box's size; false when there is nothing to draw on. */
  fit(): boolean {
    const box = this.node.parentElement && boxOf(this.node.parentElement);
    if (!box || box.width < 20 || box.height < 20) return false;
    this.scale = Math.max(1, window.devicePixelRatio || 1);
    this.width = Math.floor(box.width);
    this.height = Math.floor(box.height);
    const [w, h] = [Math.round(this.width * this.scale), Math.round(this.height * this.scale)];
    if (this.node.width !== w || this.node.height !== h) {
      this.node.width = w;
      this.node.height = h;
    }
    this.context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    this.context.clearRect(0, 0, this.width, this.height);
    return true;
  }
}

const boxes = new WeakMap<Element, DOMRect>();

/** Measure elements before anything is written: a reading after a write lays the page out anew. */
export function measure(elements: Iterable<Element>): void {
  for (const each of elements) boxes.set(each, each.getBoundingClientRect());
}

/** An element's box as it was measured last. */
export function boxOf(element: Element): DOMRect {
  return boxes.get(element) ?? element.getBoundingClientRect();
}

/** Whole-number tick positions in [from, to), at most about `wanted` of them. */
export function wholeTicks(from: number, to: number, wanted: number): number[] {
  const step = niceStep((to - from) / Math.max(1, wanted), 1);
  const out: number[] = [];
  for (let at = Math.ceil(from / step) * step; at < to; at += step) out.push(at);
  return out;
}

/** 1, 2 or 5 times a power of ten, at least `raw` and `least`. */
export function niceStep(raw: number, least = 0): number {
  const wanted = Math.max(raw, least, 1e-12);
  const power = 10 ** Math.floor(Math.log10(wanted) + 1e-9);
  const factor = [1, 2, 5, 10].find((f) => f * power >= wanted * (1 - 1e-9)) ?? 10;
  return factor * power;
}
