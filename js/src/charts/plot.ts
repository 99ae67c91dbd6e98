// A plot over the run's tokens. It draws the axes; a painter draws the marks (bars, lines), and an
// overlay shows the playhead.
//
// A new token redraws only its own place on the canvas, until the axis is full or the scale is too
// small. Tokens that are narrower than a mark can be share one mark.

import { integer } from "../widget/format";
import type { Theme } from "../widget/theme";
import { drawCorner, drawSideways, MARGIN, niceStep, wholeTicks } from "./axes";
import { Canvas } from "./canvas";
import type { Focus } from "./focus";
import { Overlay } from "./overlay";
import { Axis, type StepRange } from "./step-range";

/** A plot's content. Its values belong to steps shown.from, shown.from + 1, … */
export interface PlotContent {
  shown: StepRange;
  title: string;
  /** Tick labels are values divided by it; the title names the unit. */
  factor?: number;
  /** Steps that used the selected expert: marked below the axis. */
  highlighted?: readonly number[] | undefined;
}

/** Draws the marks of a plot. */
export interface Painter {
  /** The number of steps. */
  count: number;
  /** The largest value; 0 or less if there is nothing to scale to. */
  top: number;
  /** Whether a mark can be drawn before all of its tokens exist, and again with each new one. */
  partial: boolean;
  /** Draw marks [from, to), each of place.perMark steps. */
  paint(context: CanvasRenderingContext2D, place: Place, from: number, to: number): void;
}

/** The positions and the scale of marks. */
export interface Place {
  axis: Axis;
  perMark: number;
  /** Where a mark begins, on a whole pixel of the screen, so that it can be cleared and redrawn. */
  left(mark: number): number;
  /** The y of the axis in CSS pixels, and the height of the value 1. */
  base: number;
  unit: number;
  theme: Theme;
}

/** The width of the narrowest mark, in CSS pixels. */
const NARROWEST = 3;

/** Where the vertical axis may end, within one power of ten. */
const TOPS = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10] as const;

export class Plot {
  readonly canvas: Canvas;
  /** How many marks the last `draw` drew; tests count them. */
  painted = 0;
  private readonly overlay = new Overlay();
  private place: Place | null = null;
  private end = 0;
  /** What the whole plot depends on, and the number of complete marks drawn. */
  private key = "";
  private drawn = 0;

  constructor(
    label: string,
    private readonly focus: Focus,
    signal: AbortSignal,
  ) {
    this.canvas = new Canvas(label);
    const node = this.canvas.node;
    const point = (event: MouseEvent) => focus.hoverStep(this.stepAt(event.clientX));
    node.addEventListener("pointermove", point, { signal });
    node.addEventListener("pointerleave", () => focus.hoverStep(null), { signal });
    node.addEventListener("blur", () => focus.hoverStep(null), { signal });
    node.addEventListener(
      "click",
      (event) => {
        const step = this.stepAt(event.clientX);
        if (step !== null) focus.moveTo(step);
      },
      { signal },
    );
    node.addEventListener("keydown", (event) => this.place && focus.stepKey(event, this.end - 1), {
      signal,
    });
  }

  /** How many tokens share a mark. */
  get shared(): number {
    return this.place?.perMark ?? 1;
  }

  draw(content: PlotContent, painter: Painter, theme: Theme): void {
    if (!this.canvas.fit()) return;
    const { shown } = content;
    const axis = new Axis(shown, this.canvas.width);
    if (!this.overlay.node.isConnected) this.canvas.node.after(this.overlay.node);
    const perMark = Math.ceil((NARROWEST * (shown.to - shown.from)) / axis.width);
    const top = ceiling(painter.top);
    const base = MARGIN.top + this.height;
    const unit = top > 0 ? this.height / top : 0;
    const known = this.place?.theme === theme && !content.highlighted;
    const { scale } = this.canvas;
    const left = (mark: number) => {
      const step = Math.min(shown.from + mark * perMark, shown.to);
      return Math.round(axis.left(step) * scale) / scale;
    };
    this.place = { axis, perMark, left, base, unit, theme };
    this.end = shown.from + painter.count;
    this.overlay.place(axis, base, this.focus.at, this.focus.step);
    const key = this.describe(content, perMark, top);
    const used = shown.from + painter.count >= shown.to;
    const marks =
      painter.partial || used
        ? Math.ceil(painter.count / perMark)
        : Math.floor(painter.count / perMark);
    const from = known && key === this.key && marks >= this.drawn ? this.drawn : 0;
    this.key = key;
    // An incomplete mark is drawn again with the next token.
    this.drawn = Math.floor(painter.count / perMark);
    this.painted = marks - from;
    if (from === 0) this.drawAll(content, painter, top, marks);
    else if (marks > from) this.drawNew(painter, top, content.factor ?? 1, from, marks);
  }

  private get height(): number {
    return this.canvas.height - MARGIN.top - MARGIN.bottom;
  }

  private describe(content: PlotContent, perMark: number, top: number): string {
    const { width, height, scale } = this.canvas;
    const { shown, title, factor } = content;
    const { from, to, origin, prompt } = shown;
    const range = [from, to, origin, prompt];
    return JSON.stringify([width, height, scale, range, title, factor, perMark, top]);
  }

  private drawAll(content: PlotContent, painter: Painter, top: number, marks: number): void {
    const { context } = this.canvas;
    const place = this.place!;
    this.canvas.clear();
    this.drawAxes(content, top);
    this.drawGrid(top, content.factor ?? 1, place.axis.x, place.axis.width);
    this.drawHighlighted(content);
    if (place.unit > 0) painter.paint(context, place, 0, marks);
  }

  private drawNew(painter: Painter, top: number, factor: number, from: number, to: number): void {
    const { context } = this.canvas;
    const { perMark, unit, left } = this.place!;
    if (perMark > 1 && painter.partial) {
      const width = left(to) - left(from);
      context.clearRect(left(from), MARGIN.top, width, this.height);
      this.drawGrid(top, factor, left(from), width);
    }
    if (unit > 0) painter.paint(context, this.place!, from, to);
  }

  private ticks(top: number, factor: number): number[] {
    const step = niceStep(top / factor / Math.max(1.5, this.height / 30));
    const out: number[] = [];
    for (let value = 0; top > 0 && value <= top / factor + 1e-9; value += step) out.push(value);
    return out;
  }

  private drawGrid(top: number, factor: number, x: number, width: number): void {
    const { context } = this.canvas;
    const { base, unit, theme } = this.place!;
    context.fillStyle = theme.grid;
    for (const value of this.ticks(top, factor)) {
      context.fillRect(x, Math.round(base - value * factor * unit) - 0.5, width, 1);
    }
  }

  private drawAxes(content: PlotContent, top: number): void {
    const { context } = this.canvas;
    const { axis, base, unit, theme } = this.place!;
    const factor = content.factor ?? 1;
    context.font = theme.font;
    context.fillStyle = theme.muted;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const value of this.ticks(top, factor)) {
      const text = String(Number(value.toPrecision(6)));
      context.fillText(text, axis.x - 5, base - value * factor * unit);
    }
    context.textBaseline = "alphabetic";
    context.textAlign = "center";
    for (const step of tokenTicks(axis)) {
      const label = String(step - content.shown.origin + 1);
      context.fillText(label, axis.left(step + 0.5), base + 13);
    }
    drawCorner(context, "token", base);
    drawSideways(context, content.title, 9, MARGIN.top + this.height / 2);
  }

  private drawHighlighted({ shown: { from, to }, highlighted }: PlotContent): void {
    const { context } = this.canvas;
    const { axis, base, theme } = this.place!;
    context.fillStyle = theme.highlight;
    for (const step of highlighted ?? []) {
      if (step < from || step >= to) continue;
      const width = axis.left(step + 1) - axis.left(step) - 1;
      context.fillRect(axis.left(step), base + 1, Math.max(1.5, width), 2);
    }
  }

  private stepAt(clientX: number): number | null {
    if (!this.place) return null;
    const { axis } = this.place;
    const step = axis.step(clientX - this.canvas.node.getBoundingClientRect().left);
    return step >= axis.shown.from && step < this.end ? step : null;
  }
}

/** A note for marks that several tokens share; "" if each token has its own. */
export function sharedNote(shared: number, mark: string): string {
  return shared > 1 ? `each ${mark} is the mean of ${integer(shared)} tokens` : "";
}

/** A round end for an axis that must reach `top`; it changes seldom as `top` grows. */
export function ceiling(top: number): number {
  if (!(top > 0)) return 0;
  const power = 10 ** Math.floor(Math.log10(top) + 1e-9);
  return power * (TOPS.find((end) => end * power >= top * (1 - 1e-9)) ?? 10);
}

/** The steps that get a label: token 1, then round numbers. */
export function tokenTicks(axis: Axis): number[] {
  const { from, to, origin } = axis.shown;
  const ticks = wholeTicks(from - origin + 1, to - origin + 1, Math.min(8, axis.width / 50));
  return ticks.filter((token) => token > 0).map((token) => token + origin - 1);
}

/** The mean of each group of `size` values, for groups [first, last). Missing values count as 0. */
export function means(
  values: ArrayLike<number>,
  size: number,
  first: number,
  last: number,
): Float64Array {
  const out = new Float64Array(Math.max(0, last - first));
  for (let mark = first; mark < last; mark += 1) {
    const [low, high] = [mark * size, Math.min(values.length, (mark + 1) * size)];
    let sum = 0;
    for (let i = low; i < high; i += 1) sum += values[i] || 0;
    out[mark - first] = sum / Math.max(1, high - low);
  }
  return out;
}
