// Lines over the run's tokens. A token without a value makes a gap in the line, not a zero.

import type { Theme } from "../widget/theme";
import type { Focus } from "./focus";
import { type Painter, type Place, Plot, type PlotContent } from "./plot";

export interface Line {
  values: ArrayLike<number>;
  colour: string;
  width: number;
  dash: readonly number[];
  /** The value of a point that several tokens share. */
  shared: "mean" | "highest";
}

export interface Curves extends PlotContent {
  lines: Line[];
}

export class Lines {
  readonly plot: Plot;
  /** The length of each line so far: its dashes continue where they ended. */
  private lengths: number[] = [];

  constructor(label: string, focus: Focus, signal: AbortSignal) {
    this.plot = new Plot(label, focus, signal);
  }

  draw(curves: Curves, theme: Theme): void {
    this.plot.draw(curves, new LinePainter(curves, this.lengths), theme);
  }
}

class LinePainter implements Painter {
  readonly count: number;
  readonly top: number;
  /** False: a point that changed would leave a wrong piece of line behind. */
  readonly partial = false;

  constructor(
    private readonly curves: Curves,
    private readonly lengths: number[],
  ) {
    this.count = Math.max(0, ...curves.lines.map((line) => line.values.length));
    let top = 0;
    for (const { values } of curves.lines) {
      for (let i = 0; i < values.length; i += 1) if (values[i] > top) top = values[i];
    }
    this.top = top;
  }

  paint(context: CanvasRenderingContext2D, place: Place, from: number, to: number): void {
    this.curves.lines.forEach((line, n) => {
      context.strokeStyle = line.colour;
      context.fillStyle = line.colour;
      context.lineWidth = line.width;
      context.setLineDash([...line.dash]);
      context.lineDashOffset = from ? (this.lengths[n] ?? 0) : 0;
      this.lengths[n] = context.lineDashOffset + this.trace(context, place, line, from, to);
    });
    context.setLineDash([]);
  }

  /** Draw a line through marks [from, to), starting at the mark before; returns its length. */
  private trace(
    context: CanvasRenderingContext2D,
    { axis, perMark, base, unit }: Place,
    line: Line,
    from: number,
    to: number,
  ): number {
    const { shown } = this.curves;
    let [length, before, x0, y0] = [0, false, 0, 0];
    context.beginPath();
    for (let mark = Math.max(0, from - 1); mark < to; mark += 1) {
      const value = pointValue(line, mark * perMark, (mark + 1) * perMark);
      if (Number.isNaN(value)) {
        before = false;
        continue;
      }
      // The middle of a token's column: points stand over the bars of the other charts.
      const x = axis.left(shown.from + Math.min((mark + 0.5) * perMark, this.count));
      const y = base - value * unit;
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
}

/** The value of the point for steps [from, to); NaN if none of them has a value. */
function pointValue({ values, shared }: Line, from: number, to: number): number {
  let [sum, n, most] = [0, 0, Number.NaN];
  for (let i = from; i < Math.min(to, values.length); i += 1) {
    const value = values[i];
    if (Number.isNaN(value)) continue;
    [sum, n] = [sum + value, n + 1];
    if (!(value <= most)) most = value;
  }
  if (!n) return Number.NaN;
  return shared === "highest" ? most : sum / n;
}
