// Stacked bars, one per token, on a canvas. It knows nothing of what is stacked.
//
// Where tokens are narrower than a bar can be, neighbours share one that shows their mean.

import { Canvas, niceStep, wholeTicks } from "./canvas";
import { MARGIN } from "./constants";
import type { Focus } from "./focus";
import { drawCorner, drawSideways } from "./heatmap";
import { Axis, type Span } from "./span";
import type { Theme } from "./theme";

export interface Stack {
  shown: Span;
  /** From the bottom up; each holds the values of steps shown.from, shown.from + 1, … */
  parts: { values: ArrayLike<number>; colour: string; hatched?: boolean }[];
  title: string;
  /** What a tick is divided by, and its unit ends up in the title. */
  factor?: number;
  /** Steps that used what is looked at: marked at the foot. */
  lit?: readonly number[] | undefined;
}

const NARROWEST = 3;

export class Bars {
  readonly canvas: Canvas;
  private axis: Axis | null = null;
  private end = 0;

  constructor(
    label: string,
    private readonly focus: Focus,
    signal: AbortSignal,
  ) {
    this.canvas = new Canvas(label);
    listen(this.canvas.node, focus, (x) => this.stepAt(x), signal);
    this.canvas.node.addEventListener(
      "keydown",
      (event) => this.axis && focus.stepKey(event, this.axis.shown.from, this.end),
      { signal },
    );
  }

  draw(stack: Stack, theme: Theme): void {
    if (!this.canvas.fit()) return;
    const axis = new Axis(stack.shown, this.canvas.width);
    this.axis = axis;
    const count = Math.max(0, ...stack.parts.map((part) => part.values.length));
    this.end = stack.shown.from + count;
    const perBar = Math.ceil((NARROWEST * (stack.shown.to - stack.shown.from)) / axis.width);
    const bars = Math.ceil(count / perBar);
    const heights = stack.parts.map((part) => means(part.values, perBar, bars));
    let top = 0;
    for (let bar = 0; bar < bars; bar += 1) {
      top = Math.max(
        top,
        heights.reduce((sum, values) => sum + values[bar], 0),
      );
    }
    this.drawScale(stack, axis, top, theme);
    this.drawFocus(stack, axis, theme);
    this.drawBars(stack, axis, heights, perBar, top, theme);
    veilLater(this.canvas.context, axis, this.plotHeight, theme);
  }

  private get plotHeight(): number {
    return this.canvas.height - MARGIN.top - MARGIN.bottom;
  }

  private drawBars(
    stack: Stack,
    axis: Axis,
    heights: Float64Array[],
    perBar: number,
    top: number,
    theme: Theme,
  ): void {
    const context = this.canvas.context;
    const base = MARGIN.top + this.plotHeight;
    for (let bar = 0; bar < (heights[0]?.length ?? 0); bar += 1) {
      const first = stack.shown.from + bar * perBar;
      const left = axis.left(first);
      const right = axis.left(Math.min(first + perBar, stack.shown.to));
      const gap = right - left >= 5 ? 1 : 0.5;
      let y = base;
      stack.parts.forEach((part, n) => {
        const height = top > 0 ? (heights[n][bar] / top) * this.plotHeight : 0;
        if (height <= 0) return;
        y -= height;
        // A hair of surface between two parts keeps them apart without their colours.
        const trim = n > 0 && height > 2 ? 0.75 : 0;
        context.fillStyle = part.colour;
        context.fillRect(left, y, right - left - gap, height - trim);
        if (part.hatched && right - left >= 6 && height >= 6) {
          this.hatch(left, y, right - left - gap, height - trim, theme);
        }
      });
    }
  }

  /** Slanted lines of surface colour over a part. */
  private hatch(x: number, y: number, width: number, height: number, theme: Theme): void {
    const context = this.canvas.context;
    context.save();
    context.beginPath();
    context.rect(x, y, width, height);
    context.clip();
    context.strokeStyle = theme.surface;
    context.lineWidth = 1;
    context.beginPath();
    for (let at = -height; at < width; at += 5) {
      context.moveTo(x + at, y + height);
      context.lineTo(x + at + height, y);
    }
    context.stroke();
    context.restore();
  }

  private drawScale(stack: Stack, axis: Axis, top: number, theme: Theme): void {
    const context = this.canvas.context;
    const base = MARGIN.top + this.plotHeight;
    context.font = theme.font;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const factor = stack.factor ?? 1;
    const step = niceStep(top / factor / Math.max(1.5, this.plotHeight / 30));
    for (let value = 0; top > 0 && value <= top / factor + 1e-9; value += step) {
      const y = base - ((value * factor) / top) * this.plotHeight;
      context.fillStyle = theme.grid;
      context.fillRect(axis.x, Math.round(y) - 0.5, axis.width, 1);
      context.fillStyle = theme.muted;
      context.fillText(String(Number(value.toPrecision(6))), axis.x - 5, y);
    }
    context.fillStyle = theme.muted;
    context.textBaseline = "alphabetic";
    context.textAlign = "center";
    for (const step of tokenTicks(axis)) {
      const at = axis.left(step + 0.5);
      context.fillText(String(step - stack.shown.origin + 1), at, base + 13);
    }
    drawCorner(context, "token", base);
    drawSideways(context, stack.title, 9, MARGIN.top + this.plotHeight / 2);
  }

  private drawFocus(stack: Stack, axis: Axis, theme: Theme): void {
    const { context } = this.canvas;
    const foot = MARGIN.top + this.plotHeight + 1;
    const { from, to } = stack.shown;
    context.fillStyle = theme.lit;
    for (const step of stack.lit ?? []) {
      if (step < from || step >= to) continue;
      context.fillRect(
        axis.left(step),
        foot,
        Math.max(1.5, axis.left(step + 1) - axis.left(step) - 1),
        2,
      );
    }
    for (const step of new Set([this.focus.pinnedStep, this.focus.step])) {
      if (step === null || step < from || step >= to) continue;
      const [left, right] = [axis.left(step), axis.left(step + 1)];
      const width = Math.max(3, right - left);
      const x = (left + right - width) / 2 - 0.25;
      context.fillStyle = theme.band;
      if (step === this.focus.step) context.fillRect(x, MARGIN.top, width, this.plotHeight);
      // A full bar hides the band: the foot stays visible, and is thicker when it is pinned.
      context.fillStyle = theme.ink;
      context.fillRect(x, foot, width, step === this.focus.pinnedStep ? 4 : 2);
    }
  }

  private stepAt(clientX: number): number | null {
    if (!this.axis) return null;
    const step = this.axis.step(clientX - this.canvas.node.getBoundingClientRect().left);
    return step >= this.axis.shown.from && step < this.end ? step : null;
  }
}

/** Pointer and blur for a plot with a token axis. */
export function listen(
  node: HTMLElement,
  focus: Focus,
  stepAt: (clientX: number) => number | null,
  signal: AbortSignal,
): void {
  const point = (event: MouseEvent) => focus.hoverStep(stepAt(event.clientX));
  node.addEventListener("pointermove", point, { signal });
  node.addEventListener("pointerleave", () => focus.hoverStep(null), { signal });
  node.addEventListener("blur", () => focus.hoverStep(null), { signal });
  node.addEventListener(
    "click",
    (event) => {
      point(event); // a finger has not hovered before
      if (stepAt(event.clientX) !== null) focus.pinStep();
    },
    { signal },
  );
}

/** A veil over the tokens after the one that is shown, while the run is scrubbed back. */
export function veilLater(
  context: CanvasRenderingContext2D,
  axis: Axis,
  height: number,
  theme: Theme,
): void {
  const { until, to } = axis.shown;
  if (until === null || until + 1 >= to) return;
  const left = axis.left(until + 1);
  context.save();
  context.globalAlpha = 0.72;
  context.fillStyle = theme.surface;
  context.fillRect(left, MARGIN.top, axis.left(to) - left, height);
  context.restore();
  context.fillStyle = theme.muted;
  context.fillRect(left - 0.5, MARGIN.top, 1, height);
}

/** Steps that get a label: token 1, then round numbers. */
export function tokenTicks(axis: Axis): number[] {
  const { from, to, origin } = axis.shown;
  const ticks = wholeTicks(from - origin + 1, to - origin + 1, Math.min(8, axis.width / 50));
  return ticks.filter((token) => token > 0).map((token) => token + origin - 1);
}

/** The mean of each run of `size` values. */
export function means(values: ArrayLike<number>, size: number, n: number): Float64Array {
  const out = new Float64Array(n);
  for (let bar = 0; bar < n; bar += 1) {
    const [low, high] = [bar * size, Math.min(values.length, (bar + 1) * size)];
    let sum = 0;
    for (let i = low; i < high; i += 1) sum += values[i];
    out[bar] = sum / Math.max(1, high - low);
  }
  return out;
}
