// A canvas that keeps its pixels in step with its box, and draws only when asked.

import { el } from "../widget/dom";

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
    return true;
  }

  /** Make it empty, to be drawn on in CSS pixels. */
  clear(): void {
    this.context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    this.context.clearRect(0, 0, this.width, this.height);
  }
}

interface Size {
  readonly width: number;
  readonly height: number;
}

const sizes = new WeakMap<Element, Size>();

/**
 * Call `changed` when one of the elements has another size, until `signal` aborts. Their sizes are
 * told by the browser after its own layout: asking for them while drawing would lay the page out
 * once more.
 */
export function watchSizes(
  elements: Iterable<Element>,
  changed: () => void,
  signal: AbortSignal,
): void {
  const observer = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) sizes.set(target, contentRect);
    changed();
  });
  for (const each of elements) observer.observe(each);
  signal.addEventListener("abort", () => observer.disconnect());
}

/** An element's size as it was told last. */
export function boxOf(element: Element): Size {
  return sizes.get(element) ?? element.getBoundingClientRect();
}
