// Lines over the run's tokens. A token without a value makes a gap in the line, not a zero.

import type { Theme } from "../widget/theme";
import { Bins } from "./bins";
import type { Focus } from "./focus";
import { type Painter, type Place, Plot, type PlotContent } from "./plot";

export interface Line {
  values: ArrayLike<number>;
  colour: string;
  width: number;
  dash: readonly number[];
  /** The value of a point that several tokens share. */
  shared: "median" | "highest";
}

/** The last line is the highest. */
export interface Curves extends PlotContent {
  lines: Line[];
}

export class Lines {
  readonly plot: Plot;
  readonly #painter = new LinePainter();

  constructor(label: string, focus: Focus, signal: AbortSignal) {
    this.plot = new Plot(label, focus, signal);
  }

  draw(curves: Curves, theme: Theme): void {
    this.#painter.take(curves);
    this.plot.draw(curves, this.#painter, theme);
  }
}

class LinePainter implements Painter {
  count = 0;
  /** False: a point that changed would leave a wrong piece of line behind. */
  readonly partial = false;
  #lines: readonly Line[] = [];
  #from = 0;
  readonly #bins = new Bins();
  /** The length of each line so far: its dashes continue where they ended. */
  readonly #lengths: number[] = [];

  take({ lines, shown }: Curves): void {
    this.#lines = lines;
    this.#from = shown.from;
    this.count = Math.max(0, ...lines.map((line) => line.values.length));
  }

  measure(perMark: number, peaks: Float64Array): number {
    this.#bins.measure(this.#highest, this.count, perMark, peaks);
    let least = Number.POSITIVE_INFINITY;
    for (const { values } of this.#lines) {
      for (let i = 0; i < values.length; i += 1) {
        if (values[i] > 0 && values[i] < least) least = values[i];
      }
    }
    return least;
  }

  peakOf(mark: number): number {
    return this.#bins.peakOf(mark);
  }

  paint(context: CanvasRenderingContext2D, place: Place, from: number, to: number): void {
    this.#lines.forEach((line, n) => {
      context.strokeStyle = line.colour;
      context.fillStyle = line.colour;
      context.lineWidth = line.width;
      context.setLineDash([...line.dash]);
      context.lineDashOffset = from ? (this.#lengths[n] ?? 0) : 0;
      this.#lengths[n] = context.lineDashOffset + this.#trace(context, place, line, from, to);
    });
    context.setLineDash([]);
  }

  readonly #highest = (token: number): number => {
    return this.#lines.length ? this.#lines[this.#lines.length - 1].values[token] : Number.NaN;
  };

  /** Draw a line through marks [from, to), starting at the mark before; returns its length. */
  #trace(
    context: CanvasRenderingContext2D,
    place: Place,
    line: Line,
    from: number,
    to: number,
  ): number {
    const { axis, perMark } = place;
    let [length, before, x0, y0] = [0, false, 0, 0];
    context.beginPath();
    for (let mark = Math.max(0, from - 1); mark < to; mark += 1) {
      const value = this.#pointValue(line, mark * perMark, (mark + 1) * perMark);
      if (Number.isNaN(value)) {
        before = false;
        continue;
      }
      // The middle of a token's column: points stand over the bars of the other charts.
      const x = axis.left(this.#from + Math.min((mark + 0.5) * perMark, this.count));
      const y = place.y(value);
      if (before) {
        context.lineTo(x, y);
        length += Math.hypot(x - x0, y - y0);
      } else {
        context.moveTo(x, y);
        // The first point after a gap gets a dot, because there may be no line from it.
        if (mark >= from)
          context.fillRect(x - line.width, y - line.width, 2 * line.width, 2 * line.width);
      }
      [before, x0, y0] = [true, x, y];
    }
    context.stroke();
    return length;
  }

  /** The value of the point for tokens [from, to); NaN if none of them has a value. */
  #pointValue({ values, shared }: Line, from: number, to: number): number {
    const end = Math.min(to, values.length);
    if (end - from === 1) return values[from];
    if (shared === "median") return this.#bins.median((i) => values[i], from, end);
    let most = Number.NaN;
    for (let i = from; i < end; i += 1) {
      if (values[i] > most || Number.isNaN(most)) most = values[i];
    }
    return most;
  }
}
