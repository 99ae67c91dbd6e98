// A plot over the run's tokens: the axes, what is pointed at, and only as much redrawn as is new.
//
// A new token touches its own place on the canvas and nothing else, until the axis is used up or
// the scale too small. Where tokens are narrower than a mark can be, neighbours share one. What the
// marks look like (bars, lines) is told by who makes the plot.

import { drawCorner, drawSideways, niceStep, wholeTicks } from "./axes";
import { Canvas } from "./canvas";
import { MARGIN } from "../live/limits";
import type { Focus } from "./focus";
import { integer } from "../widget/format";
import { Axis, type Span } from "./step-range";
import type { Theme } from "../widget/theme";

/** One plot's content; all values are those of steps shown.from, shown.from + 1, … */
export interface Content {
  shown: Span;
  title: string;
  /** What a tick is divided by; its unit ends up in the title. */
  factor?: number;
  /** Steps that used what is looked at: marked at the foot. */
  lit?: readonly number[] | undefined;
}

/** Draws marks on a plot whose place and scale are known. */
export interface Painter {
  /** How many steps there are. */
  count: number;
  /** The largest value of any mark; 0 or less when there is nothing to scale to. */
  top: number;
  /** Whether a mark can be drawn before all of its tokens are there, and once more with each. */
  partial: boolean;
  /** Draw marks [from, to), of `perMark` steps each. */
  paint(context: CanvasRenderingContext2D, place: Place, from: number, to: number): void;
}

/** Where marks go. */
export interface Place {
  axis: Axis;
  perMark: number;
  /** Where a mark begins, on a whole pixel of the screen: so it can be wiped and drawn again. */
  left(mark: number): number;
  /** y of the foot, in CSS pixels, and how many of them the value 1 is high. */
  base: number;
  unit: number;
  theme: Theme;
}

/** The narrowest mark, in CSS pixels. */
const NARROWEST = 3;

/** Ends of the vertical axis, within one power of ten. */
const TOPS = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10] as const;

export class Plot {
  readonly canvas: Canvas;
  /** How many marks the last `draw` drew, for tests and for those who wonder. */
  painted = 0;
  private place: Place | null = null;
  private end = 0;
  /** All that the whole picture depends on, and up to which mark it was drawn. */
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
        point(event); // a finger has not hovered before
        if (this.stepAt(event.clientX) !== null) focus.pinStep();
      },
      { signal },
    );
    node.addEventListener(
      "keydown",
      (event) => this.place && focus.stepKey(event, this.place.axis.shown.from, this.end),
      { signal },
    );
  }

  /** How many tokens share a mark. */
  get shared(): number {
    return this.place?.perMark ?? 1;
  }

  draw(content: Content, painter: Painter, theme: Theme): void {
    if (!this.canvas.fit()) return;
    const { shown } = content;
    const axis = new Axis(shown, this.canvas.width);
    const perMark = Math.ceil((NARROWEST * (shown.to - shown.from)) / axis.width);
    const top = ceiling(painter.top);
    const base = MARGIN.top + this.height;
    const unit = top > 0 ? this.height / top : 0;
    const known = this.place?.theme === theme && !content.lit;
    const { scale } = this.canvas;
    const left = (mark: number) => {
      const step = Math.min(shown.from + mark * perMark, shown.to);
      return Math.round(axis.left(step) * scale) / scale;
    };
    this.place = { axis, perMark, left, base, unit, theme };
    this.end = shown.from + painter.count;
    const key = this.describe(content, perMark, top);
    const used = shown.from + painter.count >= shown.to;
    const marks =
      painter.partial || used
        ? Math.ceil(painter.count / perMark)
        : Math.floor(painter.count / perMark);
    const from = known && key === this.key && marks >= this.drawn ? this.drawn : 0;
    this.key = key;
    // A mark that is not full yet is drawn again with the next token.
    this.drawn = Math.floor(painter.count / perMark);
    this.painted = marks - from;
    if (from === 0) this.drawAll(content, painter, top, marks);
    else if (marks > from) this.drawNew(painter, top, content.factor ?? 1, from, marks);
  }

  private get height(): number {
    return this.canvas.height - MARGIN.top - MARGIN.bottom;
  }

  private describe(content: Content, perMark: number, top: number): string {
    const { width, height, scale } = this.canvas;
    const { step, pinnedStep } = this.focus;
    const { shown, title, factor } = content;
    return JSON.stringify([
      width,
      height,
      scale,
      shown,
      title,
      factor,
      perMark,
      top,
      step,
      pinnedStep,
    ]);
  }

  private drawAll(content: Content, painter: Painter, top: number, marks: number): void {
    const { context } = this.canvas;
    const place = this.place!;
    this.canvas.clear();
    this.drawAxes(content, top);
    this.drawGrid(top, content.factor ?? 1, place.axis.x, place.axis.width);
    this.drawFocus(content);
    if (place.unit > 0) painter.paint(context, place, 0, marks);
    this.veil();
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

  private drawAxes(content: Content, top: number): void {
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

  private drawFocus({ shown: { from, to }, lit }: Content): void {
    const { context } = this.canvas;
    const { axis, base, theme } = this.place!;
    const foot = base + 1;
    context.fillStyle = theme.lit;
    for (const step of lit ?? []) {
      if (step < from || step >= to) continue;
      const width = axis.left(step + 1) - axis.left(step) - 1;
      context.fillRect(axis.left(step), foot, Math.max(1.5, width), 2);
    }
    for (const step of new Set([this.focus.pinnedStep, this.focus.step])) {
      if (step === null || step < from || step >= to) continue;
      const [left, right] = [axis.left(step), axis.left(step + 1)];
      const width = Math.max(3, right - left);
      const x = (left + right - width) / 2 - 0.25;
      context.fillStyle = theme.band;
      if (step === this.focus.step) context.fillRect(x, MARGIN.top, width, this.height);
      // A full bar hides the band: the foot stays visible, and is thicker when it is pinned.
      context.fillStyle = theme.ink;
      context.fillRect(x, foot, width, step === this.focus.pinnedStep ? 4 : 2);
    }
  }

  /** A veil over the tokens after the one that is shown, while the run is scrubbed back. */
  private veil(): void {
    const { context } = this.canvas;
    const { axis, theme } = this.place!;
    const { until, to } = axis.shown;
    if (until === null || until + 1 >= to) return;
    const left = axis.left(until + 1);
    context.save();
    context.globalAlpha = 0.72;
    context.fillStyle = theme.surface;
    context.fillRect(left, MARGIN.top, axis.left(to) - left, this.height);
    context.restore();
    context.fillStyle = theme.muted;
    context.fillRect(left - 0.5, MARGIN.top, 1, this.height);
  }

  private stepAt(clientX: number): number | null {
    if (!this.place) return null;
    const { axis } = this.place;
    const step = axis.step(clientX - this.canvas.node.getBoundingClientRect().left);
    return step >= axis.shown.from && step < this.end ? step : null;
  }
}

/** How to read marks that tokens share; "" where each has its own. */
export function sharedNote(shared: number, mark: string): string {
  return shared > 1 ? `each ${mark} is the mean of ${integer(shared)} tokens` : "";
}

/** The end of an axis that reaches at least up to `top`; it changes seldom as `top` grows. */
export function ceiling(top: number): number {
  if (!(top > 0)) return 0;
  const power = 10 ** Math.floor(Math.log10(top) + 1e-9);
  return power * (TOPS.find((end) => end * power >= top * (1 - 1e-9)) ?? 10);
}

/** Steps that get a label: token 1, then round numbers. */
export function tokenTicks(axis: Axis): number[] {
  const { from, to, origin } = axis.shown;
  const ticks = wholeTicks(from - origin + 1, to - origin + 1, Math.min(8, axis.width / 50));
  return ticks.filter((token) => token > 0).map((token) => token + origin - 1);
}

/** The mean of each run of `size` values, from the `first`th run to before the `last`th. */
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
    for (let i = low; i < high; i += 1) sum += values[i] || 0; // of what is not told, nothing
    out[mark - first] = sum / Math.max(1, high - low);
  }
  return out;
}
