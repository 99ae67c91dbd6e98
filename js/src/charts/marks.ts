// The marks above a map's cells: gaps between large cells, signs on cells that moved, and outlines.

import type { Theme } from "../widget/theme";
import type { Cells } from "./bitmap";

/** A plot's place on its canvas, in CSS pixels. */
export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** The levels of cells whose expert just arrived or was just evicted. */
export interface MovedLevels {
  arrived: number;
  evicted: number;
}

/** Cells at least this large, in CSS pixels, are drawn with a gap between them. */
export const GAP_FROM = 6;
/** Cells at least this large carry a sign. */
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

/** Draw a dot on each cell that arrived and a cross on each that was evicted. */
export function drawSigns(
  context: CanvasRenderingContext2D,
  { x, y, width, height }: Box,
  { layers, experts, levels }: Cells,
  { arrived, evicted }: MovedLevels,
  theme: Theme,
): void {
  const [cellWidth, cellHeight] = [width / experts, height / layers];
  const radius = Math.min(cellWidth, cellHeight, 12) / 5;
  const [dots, crosses] = [new Path2D(), new Path2D()];
  for (let i = 0; i < layers * experts; i += 1) {
    if (levels[i] !== arrived && levels[i] !== evicted) continue;
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

/** For each layer, 1 if an expert arrived, plus 2 if one was evicted. */
export function movedLayers({ layers, experts, levels }: Cells, moved: MovedLevels): Uint8Array {
  const out = new Uint8Array(layers);
  for (let layer = 0; layer < layers; layer += 1) {
    for (let i = layer * experts; i < (layer + 1) * experts; i += 1) {
      if (levels[i] === moved.arrived) out[layer] |= 1;
      else if (levels[i] === moved.evicted) out[layer] |= 2;
    }
  }
  return out;
}

/** Draw beside each layer's row ◂ if an expert arrived and, further out, ▹ if one was evicted. */
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
  moved.forEach((flags, layer) => {
    const middle = y + (layer + 0.5) * tall;
    if (tall < SIGN_FROM) {
      // Too low for a triangle: a short thick stroke, and a long thin one.
      if (flags & 1) context.fillRect(edge + 2, middle - half, 4, 2 * half);
      if (flags & 2) context.fillRect(edge + 8, middle - 0.375, 6, 0.75);
      return;
    }
    if (flags & 1) context.fill(triangle(edge + 2, edge + 7, middle, half));
    if (flags & 2) context.stroke(triangle(edge + 14, edge + 9, middle, half));
  });
}

/** Draw an outline that is visible on any background. */
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
