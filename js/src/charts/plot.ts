// A plot over the run's tokens. It draws the axes; a painter draws the marks (bars, lines), and an
// overlay shows the playhead.
//
// A new token redraws only its own place on the canvas, until the axis is full or the scale is too
// small. Tokens that are narrower than a mark can be share one mark. Marks far above all others do
// not set the scale: they are drawn to its top with a triangle, and the highest is named.

import { integer, short } from "../widget/format";
import { same } from "../widget/same";
import type { Theme } from "../widget/theme";
import { drawCorner, drawSideways, MARGIN, wholeTicks } from "./axes";
import { Brush } from "./brush";
import { Canvas } from "./canvas";
import type { Focus } from "./focus";
import { Overlay } from "./overlay";
import { type AxisScale, fitScale, heightOf, isAbove, scaleTicks } from "./scale";
import { Axis, type StepRange, stepName } from "./step-range";

interface Unit {
  factor: number;
  unit: string;
}

/** A plot's content. Its values belong to steps shown.from, shown.from + 1, … */
export interface PlotContent {
  shown: StepRange;
  title: string;
  /** The factor and the name of the unit that suits a value; without it the title is the unit. */
  units?: (value: number) => Unit;
  /** Whether the vertical axis is logarithmic. */
  log?: boolean;
  /** Steps that used the selected expert: marked below the axis. */
  highlighted?: readonly number[] | undefined;
  /** Changes with the values: a plot of the same version only moves its playhead. */
  version?: string;
}

/** Draws the marks of a plot. */
export interface Painter {
  /** The number of steps. */
  count: number;
  /** Whether a mark can be drawn before all of its tokens exist, and again with each new one. */
  partial: boolean;
  /**
   * Fill `peaks` with the highest value of each mark of `perMark` steps, NaN for none; returns the
   * lowest positive value that is drawn.
   */
  measure(perMark: number, peaks: Float64Array): number;
  /** The index of the step with a mark's highest value, as last measured; -1 for none. */
  peakOf(mark: number): number;
  /** Draw marks [from, to), each of place.perMark steps. */
  paint(context: CanvasRenderingContext2D, place: Place, from: number, to: number): void;
}

/** The positions and the scale of marks. */
export interface Place {
  axis: Axis;
  perMark: number;
  /** Where a mark begins, on a whole pixel of the screen, so that it can be cleared and redrawn. */
  left(mark: number): number;
  /** The y of the axis in CSS pixels. */
  base: number;
  scale: AxisScale;
  /** The unit of the tick labels. */
  unit: Unit;
  /** The y of a value, between the top of the axis and its base. */
  y(value: number): number;
  theme: Theme;
}

/** The width of the narrowest mark, in CSS pixels. */
const NARROWEST = 3;
/** The width of the triangle on a mark that is cut off, in CSS pixels. */
const OVERFLOW = 7;

export class Plot {
  readonly canvas: Canvas;
  /** How many marks the last `draw` drew; tests count them. */
  painted = 0;
  /** The highest mark above the axis in words, for the panel's note; "" if there is none. */
  overflow = "";
  readonly #overlay = new Overlay();
  #place: Place | null = null;
  #drawnFrom: readonly unknown[] = [];
  #end = 0;
  /** What the whole plot depends on, and the number of complete marks drawn. */
  #key = "";
  #drawn = 0;
  /** The highest value of each mark, in order and sorted; only as long as needed. */
  #peaks = new Float64Array(0);
  #sorted = new Float64Array(0);

  constructor(
    label: string,
    private readonly focus: Focus,
    signal: AbortSignal,
  ) {
    this.canvas = new Canvas(label);
    const node = this.canvas.node;
    new Brush(node, () => this.#place?.axis ?? null, focus, signal);
    const point = (event: MouseEvent) => focus.hoverStep(this.#stepAt(event.clientX));
    node.addEventListener("pointermove", point, { signal });
    node.addEventListener("pointerleave", () => focus.hoverStep(null), { signal });
    node.addEventListener("blur", () => focus.hoverStep(null), { signal });
    node.addEventListener(
      "click",
      (event) => {
        const step = this.#stepAt(event.clientX);
        if (step !== null) focus.moveTo(step);
      },
      { signal },
    );
    node.addEventListener(
      "keydown",
      (event) => this.#place && focus.stepKey(event, this.#end - 1),
      {
        signal,
      },
    );
  }

  /** How many tokens share a mark. */
  get shared(): number {
    return this.#place?.perMark ?? 1;
  }

  draw(content: PlotContent, painter: Painter, theme: Theme): void {
    if (!this.canvas.fit()) return;
    const { shown } = content;
    const axis = new Axis(shown, this.canvas.width);
    if (!this.#overlay.node.isConnected) this.canvas.node.after(this.#overlay.node);
    if (this.#unchanged(content, theme)) {
      this.#overlay.place(axis, this.#place!.base, this.focus.at, this.focus.step);
      return;
    }
    const perMark = Math.ceil((NARROWEST * (shown.to - shown.from)) / axis.width);
    const known = this.#place?.theme === theme && !content.highlighted;
    const place = this.#measure(content, painter, axis, perMark, theme);
    this.#place = place;
    this.#end = shown.from + painter.count;
    this.#overlay.place(axis, place.base, this.focus.at, this.focus.step);
    this.overflow = this.#nameOverflow(content, painter);
    const key = this.#describe(content, place);
    const used = shown.from + painter.count >= shown.to;
    const marks =
      painter.partial || used
        ? Math.ceil(painter.count / perMark)
        : Math.floor(painter.count / perMark);
    const from = known && key === this.#key && marks >= this.#drawn ? this.#drawn : 0;
    this.#key = key;
    // An incomplete mark is drawn again with the next token.
    this.#drawn = Math.floor(painter.count / perMark);
    this.painted = marks - from;
    if (from === 0) this.#drawAll(content, painter, marks);
    else if (marks > from) this.#drawNew(painter, from, marks);
  }

  #unchanged({ version, log, highlighted, shown }: PlotContent, theme: Theme): boolean {
    const { width, height, scale } = this.canvas;
    const from = [version, log, highlighted, theme, shown.from, shown.to, width, height, scale];
    const unchanged = !!version && same(from, this.#drawnFrom);
    this.#drawnFrom = from;
    return unchanged;
  }

  get #height(): number {
    return this.canvas.height - MARGIN.top - MARGIN.bottom;
  }

  #measure(
    content: PlotContent,
    painter: Painter,
    axis: Axis,
    perMark: number,
    theme: Theme,
  ): Place {
    const { shown } = content;
    const marks = Math.ceil(painter.count / perMark);
    if (this.#sorted.length < marks) {
      [this.#peaks, this.#sorted] = [new Float64Array(2 * marks), new Float64Array(2 * marks)];
    }
    const peaks = this.#peaks.subarray(0, marks);
    const least = painter.measure(perMark, peaks);
    const sorted = this.#sorted.subarray(0, marks);
    sorted.set(peaks);
    const scale = fitScale(sorted, least, content.log ?? false);
    const height = this.#height;
    const base = MARGIN.top + height;
    const y = (value: number) => base - height * heightOf(value, scale);
    const pixels = this.canvas.scale;
    const left = (mark: number) => {
      const step = Math.min(shown.from + mark * perMark, shown.to);
      return Math.round(axis.left(step) * pixels) / pixels;
    };
    const unit = content.units?.(scale.top) ?? { factor: 1, unit: content.title };
    return { axis, perMark, left, base, scale, unit, y, theme };
  }

  #describe(content: PlotContent, { perMark, scale, unit }: Place): string {
    const { canvas } = this;
    const { from, to, origin, prompt } = content.shown;
    const size = [canvas.width, canvas.height, canvas.scale];
    const marked = !!content.highlighted; // a plot with marks is always drawn anew, and once after
    return JSON.stringify([size, from, to, origin, prompt, unit, perMark, scale, marked]);
  }

  #drawAll(content: PlotContent, painter: Painter, marks: number): void {
    const place = this.#place!;
    this.canvas.clear();
    this.#drawAxes();
    this.#drawGrid(place.axis.x, place.axis.width);
    this.#drawHighlighted(content);
    this.#paint(painter, 0, marks);
  }

  #drawNew(painter: Painter, from: number, to: number): void {
    const { context } = this.canvas;
    const { perMark, left } = this.#place!;
    if (perMark > 1 && painter.partial) {
      const width = left(to) - left(from);
      context.clearRect(left(from), 0, width, MARGIN.top + this.#height);
      this.#drawGrid(left(from), width);
    }
    this.#paint(painter, from, to);
  }

  #paint(painter: Painter, from: number, to: number): void {
    const { context } = this.canvas;
    const place = this.#place!;
    if (!(place.scale.top > 0)) return;
    painter.paint(context, place, from, to);
    context.fillStyle = place.theme.ink;
    context.beginPath();
    for (let mark = from; mark < to; mark += 1) {
      if (!isAbove(this.#peaks[mark], place.scale)) continue;
      const x = (place.left(mark) + place.left(mark + 1)) / 2;
      context.moveTo(x - OVERFLOW / 2, MARGIN.top - 0.5);
      context.lineTo(x + OVERFLOW / 2, MARGIN.top - 0.5);
      context.lineTo(x, 0);
    }
    context.fill();
  }

  #nameOverflow(content: PlotContent, painter: Painter): string {
    const { scale, perMark } = this.#place!;
    let highest = -1;
    for (let mark = 0; mark * perMark < painter.count; mark += 1) {
      const above = isAbove(this.#peaks[mark], scale);
      if (above && (highest < 0 || this.#peaks[mark] > this.#peaks[highest])) highest = mark;
    }
    if (highest < 0) return "";
    const { shown } = content;
    const { factor, unit } = content.units?.(this.#peaks[highest]) ?? this.#place!.unit;
    const value = `${short(this.#peaks[highest] / factor)}\u202f${unit}`;
    const token = stepName(shown.from + painter.peakOf(highest), shown);
    return `▲ max ${value}, ${token}`;
  }

  #ticks(): number[] {
    const { scale, unit } = this.#place!;
    return scaleTicks(scale, unit.factor, this.#height / 30);
  }

  #drawGrid(x: number, width: number): void {
    const { context } = this.canvas;
    const { y, theme } = this.#place!;
    context.fillStyle = theme.grid;
    for (const value of this.#ticks()) {
      context.fillRect(x, Math.round(y(value)) - 0.5, width, 1);
    }
  }

  #drawAxes(): void {
    const { context } = this.canvas;
    const { axis, base, unit, y, theme } = this.#place!;
    context.font = theme.font;
    context.fillStyle = theme.muted;
    context.textAlign = "right";
    context.textBaseline = "middle";
    const ticks = this.#ticks();
    for (const value of this.#height < 14 ? ticks.slice(-1) : ticks) {
      const text = String(Number((value / unit.factor).toPrecision(6)));
      context.fillText(text, axis.x - 5, y(value));
    }
    drawTokenAxis(context, axis, base);
    drawSideways(context, unit.unit, 9, MARGIN.top + this.#height / 2);
  }

  #drawHighlighted({ shown: { from, to }, highlighted }: PlotContent): void {
    const { context } = this.canvas;
    const { axis, base, theme } = this.#place!;
    context.fillStyle = theme.highlight;
    for (const step of highlighted ?? []) {
      if (step < from || step >= to) continue;
      const width = axis.left(step + 1) - axis.left(step) - 1;
      context.fillRect(axis.left(step), base + 1, Math.max(1.5, width), 2);
    }
  }

  #stepAt(clientX: number): number | null {
    if (!this.#place) return null;
    const { axis } = this.#place;
    const step = axis.step(clientX - this.canvas.node.getBoundingClientRect().left);
    return step >= axis.shown.from && step < this.#end ? step : null;
  }
}

/** A note for marks that several tokens share; "" if each token has its own. */
export function sharedNote(shared: number, mark: string, most: string): string {
  return shared > 1
    ? `each ${mark} is ${most} of ${integer(shared)} tokens; line: their median`
    : "";
}

/** Draw the token axis below y = `base`: labels of round token numbers, and its title. */
export function drawTokenAxis(context: CanvasRenderingContext2D, axis: Axis, base: number): void {
  const { from, to, origin } = axis.shown;
  context.textBaseline = "alphabetic";
  context.textAlign = "center";
  const most = Math.min(8, axis.width / 50);
  for (const token of wholeTicks(from - origin + 1, to - origin + 1, most))
    if (token > 0) context.fillText(String(token), axis.left(token + origin - 0.5), base + 13);
  drawCorner(context, "token", base);
}
