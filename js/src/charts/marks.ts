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

/** An expert that a token chose, at layer * experts + expert. */
export interface Chosen {
  index: number;
  hit: boolean;
}

/** An expert that arrived or was evicted, and how many tokens ago. */
export interface Moved {
  index: number;
  arrived: boolean;
  age: number;
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

/** Draw a dot on each cell that arrived and a cross on each that was evicted; both fade with age. */
export function drawMoved(
  context: CanvasRenderingContext2D,
  box: Box,
  map: Cells,
  moved: readonly Moved[],
  theme: Theme,
): void {
  const { at, size } = cellsIn(box, map);
  // Signs would cover small cells, except for the newest.
  const shown = size < SIGN_FROM ? moved.filter(({ age }) => age === 0) : moved;
  const radius = Math.max(1.25, Math.min(size, 12) / 5);
  for (const age of new Set(shown.map((each) => each.age))) {
    const [dots, crosses] = [new Path2D(), new Path2D()];
    for (const each of shown) {
      if (each.age !== age) continue;
      const [x, y] = at(each.index);
      if (each.arrived) ring(dots, x, y, radius);
      else cross(crosses, x, y, 1.3 * radius);
    }
    context.globalAlpha = 0.6 ** age;
    outlined(context, theme, dots, radius < 2 ? 0 : 1);
    context.fillStyle = theme.ink;
    context.fill(dots);
    context.strokeStyle = theme.ink;
    context.lineWidth = 1.25;
    context.stroke(crosses);
  }
  context.globalAlpha = 1;
}

/** Mark the experts of one token: a thin ring for a hit, a thick diamond for a miss. */
export function drawChosen(
  context: CanvasRenderingContext2D,
  box: Box,
  map: Cells,
  chosen: readonly Chosen[],
  theme: Theme,
): void {
  const { at, size } = cellsIn(box, map);
  const radius = Math.max(2.25, Math.min(size, 14) / 2.6);
  const [rings, diamonds] = [new Path2D(), new Path2D()];
  for (const { index, hit } of chosen) {
    const [x, y] = at(index);
    if (hit) ring(rings, x, y, radius);
    else diamond(diamonds, x, y, 1.3 * radius);
  }
  outlined(context, theme, rings, 2.5);
  outlined(context, theme, diamonds, 3.5);
  context.lineWidth = 1.25;
  context.strokeStyle = theme.ink;
  context.stroke(rings);
  context.lineWidth = 2;
  context.stroke(diamonds);
}

/** Put brackets around the cell that is evicted next: no sign of a token reaches so far. */
export function drawNext(
  context: CanvasRenderingContext2D,
  box: Box,
  map: Cells,
  index: number,
  theme: Theme,
): void {
  const { at, w, h } = cellsIn(box, map);
  const [x, y] = at(index);
  const [across, down] = [Math.max(6.5, w / 2), Math.max(6.5, h / 2)];
  const corners = new Path2D();
  for (const dx of [-across, across]) {
    for (const dy of [-down, down]) {
      corners.moveTo(x + 0.4 * dx, y + dy);
      corners.lineTo(x + dx, y + dy);
      corners.lineTo(x + dx, y + 0.4 * dy);
    }
  }
  outlined(context, theme, corners, 4.5);
  context.lineWidth = 2;
  context.strokeStyle = theme.ink;
  context.stroke(corners);
}

/** The middle of each cell, its sides, and the smaller of them. */
function cellsIn({ x, y, width, height }: Box, { layers, experts }: Cells) {
  const [w, h] = [width / experts, height / layers];
  const at = (index: number) =>
    [x + ((index % experts) + 0.5) * w, y + (Math.floor(index / experts) + 0.5) * h] as const;
  return { at, w, h, size: Math.min(w, h) };
}

/** A margin around marks, so that they are visible on any cell. */
function outlined(context: CanvasRenderingContext2D, theme: Theme, path: Path2D, width: number) {
  context.strokeStyle = theme.surface;
  context.lineWidth = width;
  if (width) context.stroke(path);
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

function diamond(path: Path2D, x: number, y: number, half: number): void {
  path.moveTo(x, y - half);
  path.lineTo(x + half, y);
  path.lineTo(x, y + half);
  path.lineTo(x - half, y);
  path.closePath();
}

function ring(path: Path2D, x: number, y: number, radius: number): void {
  path.moveTo(x + radius, y);
  path.arc(x, y, radius, 0, 2 * Math.PI);
}

function cross(path: Path2D, x: number, y: number, half: number): void {
  path.moveTo(x - half, y - half);
  path.lineTo(x + half, y + half);
  path.moveTo(x - half, y + half);
  path.lineTo(x + half, y - half);
}
