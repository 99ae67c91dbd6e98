// A layers × experts map: the cells below; axes, marks and the selection above them.
//
// Cells and overlay are two canvases, because they change at different times: some cells with every
// token, the overlay mostly with the pointer. It knows nothing of what the levels mean, except for
// those that carry a sign.

import { same } from "../widget/same";
import type { Theme } from "../widget/theme";
import { drawCorner, drawSideways, MARGIN, wholeTicks } from "./axes";
import { Bitmap, type Cells } from "./bitmap";
import { Canvas } from "./canvas";
import type { Cell, Focus } from "./focus";
import {
  type Box,
  type Chosen,
  drawGaps,
  drawNext,
  GAP_FROM,
  Marks,
  type Moved,
  outline,
} from "./marks";

export interface MapContent extends Cells {
  /** The experts that moved: these carry a sign. */
  moved?: readonly Moved[];
  /** The experts that the token shown chose: ringed where it hit, a diamond where it missed. */
  chosen?: readonly Chosen[] | undefined;
  /** The expert that is evicted next, at layer * experts + expert: it has brackets. */
  next?: number | undefined;
}

export class Heatmap {
  readonly canvas: Canvas;
  readonly bitmap = new Bitmap();
  #shown: MapContent | null = null;
  /** The pixels, those below all marks, and what they were drawn from. */
  #image: ImageData | null = null;
  #ground = new Uint8ClampedArray(0);
  #groundFrom: readonly unknown[] = [];
  #marks: Marks | null = null;
  #drawnFrom: readonly unknown[] = [];
  #box: Box = { x: 0, y: 0, width: 0, height: 0 };

  constructor(
    label: string,
    private readonly focus: Focus,
    signal: AbortSignal,
  ) {
    this.canvas = new Canvas(label);
    const node = this.canvas.node;
    const options = { signal };
    const point = (event: MouseEvent) => focus.hoverCell(this.#cellAt(event));
    node.addEventListener("pointermove", point, options);
    node.addEventListener("pointerleave", () => focus.hoverCell(null), options);
    node.addEventListener("blur", () => focus.hoverCell(null), options);
    node.addEventListener(
      "click",
      (event) => {
        point(event); // a touch does not hover first
        if (this.#cellAt(event)) focus.pinCell(event.shiftKey);
      },
      options,
    );
    node.addEventListener(
      "keydown",
      (event) => focus.cellKey(event, this.#shown?.layers ?? 0, this.#shown?.experts ?? 0),
      options,
    );
  }

  /** How many cells share one pixel of the screen, at most. */
  get shared(): number {
    const { bitmap } = this,
      shown = this.#shown;
    if (!shown || !bitmap.columns) return 1;
    const across = Math.ceil(shown.experts / bitmap.columns);
    return across * Math.ceil(shown.layers / bitmap.rows);
  }

  draw(map: MapContent, theme: Theme): void {
    this.#shown = map;
    if (!this.canvas.fit() || map.layers === 0 || map.experts === 0) return;
    this.#placeCells();
    this.drawCells(map);
    const { context } = this.canvas;
    const box = this.#box;
    const from = [this.#describe(map), map.chosen, map.moved, map.next, theme];
    if (same(from, this.#drawnFrom)) return;
    this.#drawnFrom = from;
    this.#drawGround(map, theme);
    const [image, marks] = [this.#image!, this.#marks!];
    image.data.set(this.#ground);
    if (map.moved) marks.moved(image, map.moved);
    if (map.chosen) marks.chosen(image, map.chosen);
    context.putImageData(image, 0, 0);
    if (map.next !== undefined) drawNext(context, box, map, map.next, theme);
    this.#drawFocus(map, theme);
  }

  /** Show new levels, if nothing else changed since the last `draw`. */
  drawCells(map: MapContent): void {
    const { width, height } = this.#box;
    const { scale } = this.canvas;
    if (width > 0 && height > 0) this.bitmap.paint(map, width * scale, height * scale);
  }

  /** Draw gaps and axes if they have changed: marks are put on their pixels. */
  #drawGround(map: MapContent, theme: Theme): void {
    const { width, height, scale, context, node } = this.canvas;
    const box = this.#box;
    const from = [width, height, scale, map.layers, map.experts, theme];
    if (same(from, this.#groundFrom)) return;
    this.#groundFrom = from;
    this.canvas.clear();
    if (Math.min(box.width / map.experts, box.height / map.layers) >= GAP_FROM) {
      drawGaps(context, box, map, theme);
    }
    this.#drawAxes(map, theme);
    this.#image = context.getImageData(0, 0, node.width, node.height);
    this.#ground = this.#image.data.slice();
    this.#marks = new Marks(box, map, scale, theme);
  }

  /** Everything the overlay depends on, except the theme and its marks. */
  #describe(map: MapContent): string {
    const { width, height, scale } = this.canvas;
    const { cells, cell } = this.focus;
    return JSON.stringify([width, height, scale, map.layers, map.experts, cells, cell]);
  }

  /** Lay the canvas of the cells over the plot. */
  #placeCells(): void {
    const { width, height } = this.canvas;
    const [x, y] = [MARGIN.left, MARGIN.top];
    const box = {
      ...{ x, y, width: width - x - MARGIN.right },
      height: height - y - MARGIN.bottom,
    };
    if (box.width === this.#box.width && box.height === this.#box.height) return;
    this.#box = box;
    const { style } = this.bitmap.node;
    [style.left, style.top] = [`${box.x}px`, `${box.y}px`];
    [style.width, style.height] = [`${box.width}px`, `${box.height}px`];
  }

  #drawFocus(map: MapContent, theme: Theme): void {
    const { x, y, width, height } = this.#box;
    for (const cell of new Set([...this.focus.cells, this.focus.cell])) {
      if (!cell || cell.layer >= map.layers || (cell.expert ?? 0) >= map.experts) continue;
      const cellHeight = height / map.layers;
      const h = Math.max(cellHeight, 4);
      const top = y + (cell.layer + 0.5) * cellHeight - h / 2;
      const w = cell.expert === null ? width : Math.max(width / map.experts, 4);
      const middle =
        cell.expert === null ? x + width / 2 : x + ((cell.expert + 0.5) * width) / map.experts;
      outline(this.canvas.context, { x: middle - w / 2, y: top, width: w, height: h }, theme);
    }
  }

  #drawAxes(map: MapContent, theme: Theme): void {
    const context = this.canvas.context;
    const { x, y, width, height } = this.#box;
    context.fillStyle = theme.muted;
    context.font = theme.font;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const layer of wholeTicks(0, map.layers, Math.min(6, height / 22))) {
      context.fillText(String(layer), x - 5, y + ((layer + 0.5) * height) / map.layers);
    }
    context.textBaseline = "alphabetic";
    context.textAlign = "center";
    for (const expert of wholeTicks(0, map.experts, Math.min(8, width / 45))) {
      const at = x + ((expert + 0.5) * width) / map.experts;
      context.fillText(String(expert), at, y + height + 13);
    }
    drawSideways(context, "layer", 9, y + height / 2);
    drawCorner(context, "expert", y + height);
  }

  /**
   * The cell under the pointer: if cells share a pixel, the one that the pixel shows. Left of the
   * map, beside the layer's number, it is the whole layer.
   */
  #cellAt(event: MouseEvent): Cell | null {
    const map = this.#shown;
    const { columns, rows } = this.bitmap;
    if (!map?.layers || !columns) return null;
    const node = this.canvas.node.getBoundingClientRect();
    const { x, y, width, height } = this.#box;
    const row = Math.floor(((event.clientY - node.top - y) / height) * rows);
    const column = Math.floor(((event.clientX - node.left - x) / width) * columns);
    if (row < 0 || row >= rows || column >= columns) return null;
    const cell = this.bitmap.cellAt(map, Math.max(0, column), row);
    return { layer: cell.layer, expert: column < 0 ? null : cell.expert };
  }
}
