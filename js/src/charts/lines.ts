// Lines over the run's tokens. A token without a value is a gap in its line, not a zero.

import type { Focus } from "./focus";
import { type Content, type Painter, type Place, Plot } from "./plot";
import type { Theme } from "../widget/theme";

export interface Line {
  values: ArrayLike<number>;
  colour: string;
  width: number;
  dash: readonly number[];
  /** What tokens that share a point are shown by. */
  by: "mean" | "highest";
}

export interface Curves extends Content {
  lines: Line[];
}

export class Lines {
  readonly plot: Plot;
  /** How long each line is so far, so that its dashes go on where they ended. */
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
  /** A line that ran to a point that moves would have to be taken back. */
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

  /** Draw one line through marks [from, to), on from the mark before; returns its length. */
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
      const value = shownBy(line, mark * perMark, (mark + 1) * perMark);
      if (Number.isNaN(value)) {
        before = false;
        continue;
      }
      // The middle of a token's column, so that points sit over the bars of the other charts.
      const x = axis.left(shown.from + Math.min((mark + 0.5) * perMark, this.count));
      const y = base - value * unit;
      if (before) {
        context.lineTo(x, y);
        length += Math.hypot(x - x0, y - y0);
      } else {
        context.moveTo(x, y);
        // The first after a gap has a dot of its own: there may be no line to it.
        if (mark >= from)
          context.fillRect(x - line.width, y - line.width, 2 * line.width, 2 * line.width);
      }
      [before, x0, y0] = [true, x, y];
    }
    context.stroke();
    return length;
  }
}

/** What steps [from, to) are shown by; NaN where none has a value. */
function shownBy({ values, by }: Line, from: number, to: number): number {
  let [sum, n, most] = [0, 0, Number.NaN];
  for (let i = from; i < Math.min(to, values.length); i += 1) {
    const value = values[i];
    if (Number.isNaN(value)) continue;
    [sum, n] = [sum + value, n + 1];
    if (!(value <= most)) most = value;
  }
  if (!n) return Number.NaN;
  return by === "highest" ? most : sum / n;
}
