// What is drawn above a map's cells: gaps between large ones, signs on those that came or went, and
// an outline.

import type { Cells } from "./bitmap";
import type { Theme } from "../widget/theme";

/** A plot's place on its canvas, in CSS pixels. */
export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** The levels of cells that have just come, and of those that have just left. */
export interface Marked {
  arrived: number;
  left: number;
}

/** Cells at least this large, in CSS pixels, are drawn with a gap between them. */
export const GAP_FROM = 6;
/** … and carry a sign of their own. */
const SIGN_FROM = 5;

export function drawGaps(
  context: CanvasRenderingContext2D,
  { x, y, width, height }: Box,
  { layers, experts }: Cells,
  theme: Theme,
): void {
  context.fillStyle = theme.surface;
  for (let expert = 1; expert < experts; expert += 1) {
    context.fillRect(Math.round(x + (expert * width) / experts) - 0.5, y, 1, height);
  }
  for (let layer = 1; layer < layers; layer += 1) {
    context.fillRect(x, Math.round(y + (layer * height) / layers) - 0.5, width, 1);
  }
}

/** Whether cells are large enough to carry signs. */
export function hasSigns({ width, height }: Box, { layers, experts }: Cells): boolean {
  return Math.min(width / experts, height / layers) >= SIGN_FROM;
}

/** A dot on each cell that came and a cross on each that left. */
export function drawSigns(
  context: CanvasRenderingContext2D,
  { x, y, width, height }: Box,
  { layers, experts, levels }: Cells,
  { arrived, left }: Marked,
  theme: Theme,
): void {
  const [cellWidth, cellHeight] = [width / experts, height / layers];
  const radius = Math.min(cellWidth, cellHeight, 12) / 5;
  const [dots, crosses] = [new Path2D(), new Path2D()];
  for (let i = 0; i < layers * experts; i += 1) {
    if (levels[i] !== arrived && levels[i] !== left) continue;
    const at = x + ((i % experts) + 0.5) * cellWidth;
    const middle = y + (Math.floor(i / experts) + 0.5) * cellHeight;
    if (levels[i] === arrived) dot(dots, at, middle, radius);
    else cross(crosses, at, middle, 1.3 * radius);
  }
  context.fillStyle = theme.mark;
  context.fill(dots);
  context.strokeStyle = theme.ink;
  context.lineWidth = 1.25;
  context.stroke(crosses);
}

/** Per layer: 1 where an expert came, plus 2 where one left. */
export function movedLayers({ layers, experts, levels }: Cells, marked: Marked): Uint8Array {
  const out = new Uint8Array(layers);
  for (let layer = 0; layer < layers; layer += 1) {
    for (let i = layer * experts; i < (layer + 1) * experts; i += 1) {
      if (levels[i] === marked.arrived) out[layer] |= 1;
      else if (levels[i] === marked.left) out[layer] |= 2;
    }
  }
  return out;
}

/** Beside each layer's row ◂ where an expert came, and further out ▹ where one left. */
export function drawTicks(
  context: CanvasRenderingContext2D,
  { x, y, width, height }: Box,
  moved: Uint8Array,
  theme: Theme,
): void {
  const tall = height / moved.length;
  const half = Math.max(0.75, Math.min(3, tall / 2));
  const edge = x + width;
  context.fillStyle = context.strokeStyle = theme.ink;
  context.lineWidth = 0.75;
  moved.forEach((came, layer) => {
    const middle = y + (layer + 0.5) * tall;
    if (tall < SIGN_FROM) {
      // Too low for a shape: a short thick stroke, and a long thin one.
      if (came & 1) context.fillRect(edge + 2, middle - half, 4, 2 * half);
      if (came & 2) context.fillRect(edge + 8, middle - 0.375, 6, 0.75);
      return;
    }
    if (came & 1) context.fill(triangle(edge + 2, edge + 7, middle, half));
    if (came & 2) context.stroke(triangle(edge + 14, edge + 9, middle, half));
  });
}

/** An outline that can be seen on any ground. */
export function outline(
  context: CanvasRenderingContext2D,
  { x, y, width, height }: Box,
  theme: Theme,
): void {
  context.strokeStyle = theme.surface;
  context.lineWidth = 3.5;
  context.strokeRect(x - 1, y - 1, width + 2, height + 2);
  context.strokeStyle = theme.ink;
  context.lineWidth = 1.5;
  context.strokeRect(x - 1, y - 1, width + 2, height + 2);
}

function dot(path: Path2D, x: number, y: number, radius: number): void {
  path.moveTo(x + radius, y);
  path.arc(x, y, radius, 0, 2 * Math.PI);
}

function cross(path: Path2D, x: number, y: number, half: number): void {
  path.moveTo(x - half, y - half);
  path.lineTo(x + half, y + half);
  path.moveTo(x - half, y + half);
  path.lineTo(x + half, y - half);
}

function triangle(tip: number, base: number, y: number, half: number): Path2D {
  const path = new Path2D();
  path.moveTo(tip, y);
  path.lineTo(base, y - half);
  path.lineTo(base, y + half);
  path.closePath();
  return path;
}
