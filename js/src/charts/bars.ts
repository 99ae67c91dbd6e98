// Stacked bars, one per token. They know nothing of what the values mean.
//
// A bar's height is the token's total, and its colours divide it by the parts' shares, whatever the
// scale. A bar that tokens share is the highest of them; a line over it is their median.

import { perTheme, type Theme } from "../widget/theme";
import { Bins } from "./bins";
import type { Focus } from "./focus";
import { type Painter, type Place, Plot, type PlotContent, sharedNote } from "./plot";

export interface Stack extends PlotContent {
  /** The parts of each bar, from the bottom up. */
  parts: { values: ArrayLike<number>; colour: string; hatched?: boolean }[];
  /** Among tokens that share a bar the one with most of this is drawn; by default the highest. */
  by?: ArrayLike<number>;
}

export class Bars {
  readonly plot: Plot;
  readonly #painter = new StackPainter();

  constructor(label: string, focus: Focus, signal: AbortSignal) {
    this.plot = new Plot(label, focus, signal);
  }

  /** What lies above the axis, and what tokens share; `most` is the highest: "the slowest". */
  note(most: string): string {
    const { overflow, shared } = this.plot;
    return [overflow, sharedNote(shared, "bar", most)].filter(Boolean).join("; ");
  }

  draw(stack: Stack, theme: Theme): void {
    this.#painter.take(stack);
    this.plot.draw(stack, this.#painter, theme);
  }
}

class StackPainter implements Painter {
  count = 0;
  readonly partial = true;
  #parts: Stack["parts"] = [];
  #by: ArrayLike<number> | undefined;
  readonly #bins = new Bins();
  #feet = new Float64Array(0);

  take({ parts, by }: Stack): void {
    this.#parts = parts;
    this.#by = by;
    this.count = Math.max(0, ...parts.map((part) => part.values.length));
  }

  measure(perMark: number, peaks: Float64Array): number {
    const by = this.#by;
    this.#bins.measure(by ? (i) => by[i] : this.#total, this.count, perMark, peaks);
    if (by) {
      for (let mark = 0; mark < peaks.length; mark += 1) {
        const token = this.#bins.peakOf(mark);
        peaks[mark] = token < 0 ? Number.NaN : this.#total(token);
      }
    }
    let least = Number.POSITIVE_INFINITY;
    for (const peak of peaks) if (peak > 0 && peak < least) least = peak;
    return least;
  }

  peakOf(mark: number): number {
    return this.#bins.peakOf(mark);
  }

  paint(context: CanvasRenderingContext2D, place: Place, from: number, to: number): void {
    const { base, theme } = place;
    if (this.#feet.length < to - from) this.#feet = new Float64Array(2 * (to - from));
    this.#feet.fill(base, 0, to - from);
    this.#parts.forEach((part, n) => {
      context.fillStyle = part.colour;
      for (let mark = from; mark < to; mark += 1) {
        const token = this.#bins.peakOf(mark);
        const value = token < 0 ? 0 : part.values[token];
        if (!(value > 0)) continue;
        const total = this.#total(token);
        const height = (base - place.y(total)) * (value / total);
        const [left, right] = [place.left(mark), place.left(mark + 1)];
        const width = right - left - (right - left >= 5 ? 1 : 0.5);
        const y = this.#feet[mark - from] - height;
        this.#feet[mark - from] = y;
        // A thin gap separates two parts without the help of their colours.
        const trim = n > 0 && height > 2 ? 0.75 : 0;
        context.fillRect(left, y, width, height - trim);
        if (!part.hatched || right - left < 6 || height < 6) continue;
        context.fillStyle = hatching(theme);
        context.fillRect(left, y, width, height - trim);
        context.fillStyle = part.colour;
      }
    });
    if (place.perMark > 1 && !this.#by) this.#paintMedians(context, place, from, to);
  }

  #paintMedians(
    context: CanvasRenderingContext2D,
    { perMark, left, y, theme }: Place,
    from: number,
    to: number,
  ): void {
    context.fillStyle = theme.ink;
    for (let mark = from; mark < to; mark += 1) {
      const end = Math.min(this.count, (mark + 1) * perMark);
      const median = this.#bins.median(this.#total, mark * perMark, end);
      if (!(median > 0)) continue;
      context.fillRect(left(mark), Math.round(y(median) - 0.5), left(mark + 1) - left(mark), 1);
    }
  }

  /** The height of a token's bar: parts that are not known count as 0. */
  readonly #total = (token: number): number => {
    let sum = 0;
    for (const { values } of this.#parts) sum += values[token] || 0;
    return sum;
  };
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
