// A layers × experts map on a canvas: one level (0 to 255) per expert, coloured by a table.
//
// It knows nothing of what the levels mean. Where a map has more columns than the canvas has
// pixels, neighbours share a column and the highest level shows, so that nothing rare is lost.

import { Canvas, wholeTicks } from "./canvas";
import { MARGIN } from "./constants";
import type { Cell, Focus } from "./focus";
import type { Theme } from "./theme";

export interface Levels {
  layers: number;
  experts: number;
  levels: Uint8Array;
  colours: Uint32Array;
  /** Level whose cells carry a dot, and whose layers a tick in the gutter: the cue beside colour. */
  marked?: number;
  /** What the token that is looked at chose: ringed, and filled where it was a miss. */
  chosen?: { index: number; hit: boolean }[] | undefined;
}

const GUTTER = 7;
const GAP_FROM = 6; // cells at least this large are drawn with a gap
const DOT_FROM = 5;

export class Heatmap {
  readonly canvas: Canvas;
  private shown: Levels | null = null;
  private readonly bitmap = document.createElement("canvas");

  constructor(
    label: string,
    private readonly focus: Focus,
    signal: AbortSignal,
  ) {
    this.canvas = new Canvas(label);
    const node = this.canvas.node;
    const options = { signal };
    const point = (event: MouseEvent) => focus.hoverCell(this.cellAt(event));
    node.addEventListener("pointermove", point, options);
    node.addEventListener("pointerleave", () => focus.hoverCell(null), options);
    node.addEventListener("blur", () => focus.hoverCell(null), options);
    node.addEventListener(
      "click",
      (event) => {
        point(event); // a finger has not hovered before
        if (this.cellAt(event)) focus.pinCell();
      },
      options,
    );
    node.addEventListener(
      "keydown",
      (event) => focus.cellKey(event, this.shown?.layers ?? 0, this.shown?.experts ?? 0),
      options,
    );
  }

  draw(map: Levels, theme: Theme): void {
    this.shown = map;
    if (!this.canvas.fit() || map.layers === 0 || map.experts === 0) return;
    const { x, y, width, height } = this.plot();
    const context = this.canvas.context;
    const columns = Math.min(map.experts, Math.floor(width * this.canvas.scale));
    this.paint(map, columns);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.bitmap, 0, 0, columns, map.layers, x, y, width, height);
    const [cellWidth, cellHeight] = [width / map.experts, height / map.layers];
    if (Math.min(cellWidth, cellHeight) >= GAP_FROM) this.drawGaps(map, theme);
    if (map.marked !== undefined) this.drawMarks(map, theme, map.marked);
    this.drawAxes(map, theme);
    if (map.chosen) this.drawChosen(map, map.chosen, theme);
    this.drawFocus(map, theme);
  }

  /** A ring around each expert of one token: hollow for a hit, with a filled heart for a miss. */
  private drawChosen(map: Levels, chosen: { index: number; hit: boolean }[], theme: Theme): void {
    const { context } = this.canvas;
    const { x, y, width, height } = this.plot();
    const [w, h] = [Math.max(width / map.experts, 4), Math.max(height / map.layers, 4)];
    const rings = new Path2D();
    const hearts = new Path2D();
    for (const { index, hit } of chosen) {
      const cx = x + (((index % map.experts) + 0.5) * width) / map.experts;
      const cy = y + ((Math.floor(index / map.experts) + 0.5) * height) / map.layers;
      rings.rect(cx - w / 2 + 0.5, cy - h / 2 + 0.5, w - 1, h - 1);
      if (!hit) hearts.rect(cx - w / 4, cy - h / 4, w / 2, h / 2);
    }
    context.lineWidth = 2.5;
    context.strokeStyle = theme.surface;
    context.stroke(rings);
    context.lineWidth = 1.25;
    context.strokeStyle = theme.ink;
    context.stroke(rings);
    context.fillStyle = theme.miss;
    context.fill(hearts);
  }

  private drawFocus(map: Levels, theme: Theme): void {
    const { x, y, width, height } = this.plot();
    for (const cell of new Set([this.focus.pinnedCell, this.focus.cell])) {
      if (!cell || cell.layer >= map.layers || (cell.expert ?? 0) >= map.experts) continue;
      const cellHeight = height / map.layers;
      const h = Math.max(cellHeight, 4);
      const cy = y + (cell.layer + 0.5) * cellHeight;
      if (cell.expert === null) {
        this.outline(x, cy - h / 2, width, h, theme);
        continue;
      }
      const w = Math.max(width / map.experts, 4);
      this.outline(
        x + ((cell.expert + 0.5) * width) / map.experts - w / 2,
        cy - h / 2,
        w,
        h,
        theme,
      );
    }
  }

  private outline(x: number, y: number, w: number, h: number, theme: Theme): void {
    const { context } = this.canvas;
    context.strokeStyle = theme.surface;
    context.lineWidth = 3.5;
    context.strokeRect(x - 1, y - 1, w + 2, h + 2);
    context.strokeStyle = theme.ink;
    context.lineWidth = 1.5;
    context.strokeRect(x - 1, y - 1, w + 2, h + 2);
  }

  private plot() {
    const { width, height } = this.canvas;
    const right = this.shown?.marked === undefined ? 0 : GUTTER;
    return {
      x: MARGIN.left,
      y: MARGIN.top,
      width: width - MARGIN.left - MARGIN.right - right,
      height: height - MARGIN.top - MARGIN.bottom,
    };
  }

  /** The map as a bitmap of one pixel per cell, or per shared column. */
  private paint(map: Levels, columns: number): void {
    const { layers, experts, levels, colours } = map;
    if (this.bitmap.width !== columns || this.bitmap.height !== layers) {
      this.bitmap.width = columns;
      this.bitmap.height = layers;
    }
    const context = this.bitmap.getContext("2d")!;
    const image = context.createImageData(columns, layers);
    const pixels = new Uint32Array(image.data.buffer);
    if (columns === experts) {
      for (let i = 0; i < pixels.length; i += 1) pixels[i] = colours[levels[i]];
    } else {
      const highest = new Uint8Array(columns);
      for (let layer = 0; layer < layers; layer += 1) {
        highest.fill(0);
        for (let expert = 0; expert < experts; expert += 1) {
          const column = Math.floor((expert * columns) / experts);
          highest[column] = Math.max(highest[column], levels[layer * experts + expert]);
        }
        for (let column = 0; column < columns; column += 1) {
          pixels[layer * columns + column] = colours[highest[column]];
        }
      }
    }
    context.putImageData(image, 0, 0);
  }

  private drawGaps(map: Levels, theme: Theme): void {
    const context = this.canvas.context;
    const { x, y, width, height } = this.plot();
    context.fillStyle = theme.surface;
    for (let expert = 1; expert < map.experts; expert += 1) {
      context.fillRect(Math.round(x + (expert * width) / map.experts) - 0.5, y, 1, height);
    }
    for (let layer = 1; layer < map.layers; layer += 1) {
      context.fillRect(x, Math.round(y + (layer * height) / map.layers) - 0.5, width, 1);
    }
  }

  private drawMarks(map: Levels, theme: Theme, marked: number): void {
    const context = this.canvas.context;
    const { x, y, width, height } = this.plot();
    const { layers, experts, levels } = map;
    const [cellWidth, cellHeight] = [width / experts, height / layers];
    const dots = Math.min(cellWidth, cellHeight) >= DOT_FROM;
    const radius = Math.min(cellWidth, cellHeight, 12) / 5;
    for (let layer = 0; layer < layers; layer += 1) {
      let any = false;
      for (let expert = 0; expert < experts; expert += 1) {
        if (levels[layer * experts + expert] !== marked) continue;
        any = true;
        if (!dots) break;
        context.fillStyle = theme.mark;
        context.beginPath();
        const [cx, cy] = [x + (expert + 0.5) * cellWidth, y + (layer + 0.5) * cellHeight];
        context.arc(cx, cy, radius, 0, 2 * Math.PI);
        context.fill();
      }
      if (!any) continue;
      context.fillStyle = theme.ink;
      const [tip, middle] = [x + width + 2, y + (layer + 0.5) * cellHeight];
      const half = Math.max(1, Math.min(3, cellHeight / 2));
      context.beginPath();
      context.moveTo(tip, middle);
      context.lineTo(tip + 5, middle - half);
      context.lineTo(tip + 5, middle + half);
      context.fill();
    }
  }

  private drawAxes(map: Levels, theme: Theme): void {
    const context = this.canvas.context;
    const { x, y, width, height } = this.plot();
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

  /** The cell under the pointer; left of the map, beside its number, the whole layer. */
  private cellAt(event: MouseEvent): Cell | null {
    const map = this.shown;
    if (!map?.layers) return null;
    const box = this.canvas.node.getBoundingClientRect();
    const { x, y, width, height } = this.plot();
    const expert = Math.floor(((event.clientX - box.left - x) / width) * map.experts);
    const layer = Math.floor(((event.clientY - box.top - y) / height) * map.layers);
    if (layer < 0 || layer >= map.layers || expert >= map.experts) return null;
    return { layer, expert: expert < 0 ? null : expert };
  }
}

/** The horizontal axis's title, below the vertical axis whose foot is at `base`. */
export function drawCorner(context: CanvasRenderingContext2D, text: string, base: number): void {
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  context.fillText(text, 4, base + 13);
}

/** An axis title that reads upwards, centred on (x, y). */
export function drawSideways(
  context: CanvasRenderingContext2D,
  text: string,
  x: number,
  y: number,
): void {
  context.save();
  context.translate(x, y);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(text, 0, 0);
  context.restore();
}
