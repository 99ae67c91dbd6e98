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
/** No mark reaches further from its middle, in CSS pixels. */
const LARGEST = 10;

type Context = CanvasRenderingContext2D;

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

/** A mark as pixels of the screen: the x and y of each from the middle, and its colour, in turn. */
type Stamp = Int32Array;

/**
 * The marks of a map on cells of one size. Each is drawn once and then copied: a token marks
 * hundreds of cells, and as shapes these cost a redraw most of its time.
 */
export class Marks {
  readonly #stamps = new Map<string, Stamp>();
  readonly #cells: ReturnType<typeof cellsIn>;
  #on: ImageData | null = null;
  #below = new Uint32Array(0);

  constructor(
    box: Box,
    map: Cells,
    private readonly scale: number,
    private readonly theme: Theme,
  ) {
    this.#cells = cellsIn(box, map);
  }

  /** Put a dot on each cell that arrived and a cross on each that was evicted; both fade with age. */
  moved(on: ImageData, moved: readonly Moved[]): void {
    const { size } = this.#cells,
      { theme } = this;
    const radius = Math.max(1.25, Math.min(size, 12) / 5);
    for (const { index, arrived, age } of moved) {
      // Signs would cover small cells, except for the newest.
      if (age && size < SIGN_FROM) continue;
      this.#put(on, index, `${arrived} ${age}`, (context) => {
        context.globalAlpha = 0.6 ** age;
        const path = new Path2D();
        if (arrived) {
          ring(path, radius);
          if (radius >= 2) line(context, path, theme.surface, 1);
          context.fill(path);
        } else {
          cross(path, 1.3 * radius);
          line(context, path, theme.ink, 1.25);
        }
      });
    }
  }

  /** Mark the experts of one token: a thin ring for a hit, a thick diamond for a miss. */
  chosen(on: ImageData, chosen: readonly Chosen[]): void {
    const radius = Math.max(2.25, Math.min(this.#cells.size, 14) / 2.6);
    // A margin around all of them, below all signs, so that they are visible on any cell.
    for (const margin of [1.5, 0]) {
      for (const { index, hit } of chosen) {
        this.#put(on, index, `chosen ${hit} ${margin}`, (context) => {
          const path = new Path2D();
          if (hit) ring(path, radius);
          else diamond(path, 1.3 * radius);
          const { surface, ink } = this.theme;
          line(context, path, margin ? surface : ink, (hit ? 1.25 : 2) + margin);
        });
      }
    }
  }

  /** Copy a mark to the middle of a cell; `draw` draws it around (0, 0). */
  #put(on: ImageData, index: number, name: string, draw: (context: Context) => void): void {
    let stamp = this.#stamps.get(name);
    if (!stamp) {
      stamp = stampOf(draw, this.scale, this.theme);
      this.#stamps.set(name, stamp);
    }
    const { width, height } = on;
    const [left, top] = this.#cells.at(index).map((at) => Math.round(at * this.scale));
    if (on !== this.#on) [this.#on, this.#below] = [on, new Uint32Array(on.data.buffer)];
    const below = this.#below;
    for (let i = 0; i < stamp.length; i += 3) {
      const x = left + stamp[i],
        y = top + stamp[i + 1];
      if (x < 0 || y < 0 || x >= width || y >= height) continue;
      const at = y * width + x,
        colour = stamp[i + 2];
      // Most pixels are opaque, or above nothing.
      below[at] = colour >>> 24 < 255 && below[at] ? over(colour, below[at]) : colour;
    }
  }
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
  line(context, corners, theme.surface, 4.5);
  line(context, corners, theme.ink, 2);
}

/** The middle of each cell, its sides, and the smaller of them. */
function cellsIn({ x, y, width, height }: Box, { layers, experts }: Cells) {
  const [w, h] = [width / experts, height / layers];
  const at = (index: number) =>
    [x + ((index % experts) + 0.5) * w, y + (Math.floor(index / experts) + 0.5) * h] as const;
  return { at, w, h, size: Math.min(w, h) };
}

/** The pixels of what `draw` draws around (0, 0). */
function stampOf(draw: (context: Context) => void, scale: number, theme: Theme): Stamp {
  const side = 2 * Math.ceil(LARGEST * scale);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d")!;
  context.setTransform(scale, 0, 0, scale, side / 2, side / 2);
  context.fillStyle = theme.ink;
  draw(context);
  const pixels = new Uint32Array(context.getImageData(0, 0, side, side).data.buffer);
  const stamp: number[] = [];
  pixels.forEach((colour, i) => {
    if (colour >>> 24) stamp.push((i % side) - side / 2, Math.floor(i / side) - side / 2, colour);
  });
  return Int32Array.from(stamp);
}

/** A colour, as ImageData stores it, above another. */
function over(above: number, below: number): number {
  const alpha = above >>> 24;
  const rest = ((below >>> 24) * (255 - alpha)) / 255;
  if (!rest) return above;
  const mix = (shift: number) =>
    (((above >> shift) & 255) * alpha + ((below >> shift) & 255) * rest) / (alpha + rest);
  return ((alpha + rest) << 24) | (mix(16) << 16) | (mix(8) << 8) | mix(0);
}

function line(context: Context, path: Path2D, colour: string, width: number): void {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
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

function diamond(path: Path2D, half: number): void {
  path.moveTo(0, -half);
  path.lineTo(half, 0);
  path.lineTo(0, half);
  path.lineTo(-half, 0);
  path.closePath();
}

function ring(path: Path2D, radius: number): void {
  path.arc(0, 0, radius, 0, 2 * Math.PI);
}

function cross(path: Path2D, half: number): void {
  path.moveTo(-half, -half);
  path.lineTo(half, half);
  path.moveTo(-half, half);
  path.lineTo(half, -half);
}
