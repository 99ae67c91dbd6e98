// A canvas as large as the box that holds it. It draws only on request.

import { el } from "../widget/dom";
import { sizeOf } from "../widget/observe";

export class Canvas {
  readonly node: HTMLCanvasElement;
  readonly context: CanvasRenderingContext2D;
  /** Size in CSS pixels. */
  width = 0;
  height = 0;
  /** Pixels of the screen per CSS pixel. */
  scale = 1;

  constructor(label: string) {
    this.node = el("canvas", "oj-canvas", { role: "img", tabindex: "0", "aria-label": label });
    this.context = this.node.getContext("2d")!;
  }

  /** Take the box's size; false if it is too small to draw on. */
  fit(): boolean {
    const box = this.node.parentElement && sizeOf(this.node.parentElement);
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

  /** Clear the canvas and use CSS pixels as its unit. */
  clear(): void {
    this.context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    this.context.clearRect(0, 0, this.width, this.height);
  }
}
