// Stacked bars, one per token. They know nothing of what the values mean.

import { perTheme, type Theme } from "../widget/theme";
import type { Focus } from "./focus";
import { means, type Painter, type Place, Plot, type PlotContent, sharedNote } from "./plot";

export interface Stack extends PlotContent {
  /** The parts of each bar, from the bottom up. */
  parts: { values: ArrayLike<number>; colour: string; hatched?: boolean }[];
}

export class Bars {
  readonly plot: Plot;

  constructor(label: string, focus: Focus, signal: AbortSignal) {
    this.plot = new Plot(label, focus, signal);
  }

  get note(): string {
    return sharedNote(this.plot.shared, "bar");
  }

  draw(stack: Stack, theme: Theme): void {
    this.plot.draw(stack, new StackPainter(stack), theme);
  }
}

class StackPainter implements Painter {
  readonly count: number;
  readonly top: number;
  readonly partial = true;

  constructor(private readonly stack: Stack) {
    this.count = Math.max(0, ...stack.parts.map((part) => part.values.length));
    // The highest single token, although bars may be means: the scale stays when the axis grows.
    let top = 0;
    for (let i = 0; i < this.count; i += 1) {
      let sum = 0;
      for (const { values } of stack.parts) sum += values[i] || 0;
      if (sum > top) top = sum;
    }
    this.top = top;
  }

  paint(context: CanvasRenderingContext2D, place: Place, from: number, to: number): void {
    const { perMark, base, unit, theme } = place;
    const { parts } = this.stack;
    const feet = new Float64Array(to - from).fill(base);
    parts.forEach((part, n) => {
      const heights = means(part.values, perMark, from, to);
      context.fillStyle = part.colour;
      for (let mark = from; mark < to; mark += 1) {
        const height = heights[mark - from] * unit;
        if (!(height > 0)) continue;
        const [left, right] = [place.left(mark), place.left(mark + 1)];
        const width = right - left - (right - left >= 5 ? 1 : 0.5);
        feet[mark - from] -= height;
        // A thin gap separates two parts without the help of their colours.
        const trim = n > 0 && height > 2 ? 0.75 : 0;
        const y = feet[mark - from];
        context.fillRect(left, y, width, height - trim);
        if (!part.hatched || right - left < 6 || height < 6) continue;
        context.fillStyle = hatching(theme);
        context.fillRect(left, y, width, height - trim);
        context.fillStyle = part.colour;
      }
    });
  }
}

/** A pattern of slanted lines in the surface colour, painted over a part. */
const hatching = perTheme((theme) => {
  const tile = document.createElement("canvas");
  [tile.width, tile.height] = [5, 5];
  const lines = tile.getContext("2d")!;
  lines.strokeStyle = theme.surface;
  lines.beginPath();
  for (const at of [-5, 0, 5]) {
    lines.moveTo(at, 5);
    lines.lineTo(at + 5, 0);
  }
  lines.stroke();
  return lines.createPattern(tile, "repeat")!;
});
