// Read latency per token as three lines, drawn by uPlot. A token without reads is a gap, not 0.

import uPlot from "uplot";
import { listen, tokenTicks, veilLater } from "./bars";
import { boxOf } from "./canvas";
import { MARGIN } from "./constants";
import { el } from "./dom";
import type { Focus } from "./focus";
import { drawCorner, drawSideways } from "./heatmap";
import { Axis, type Span } from "./span";
import type { StepLog } from "./state";
import type { Theme } from "./theme";

export class Latency {
  readonly node = el("div", "oj-uplot", {
    role: "img",
    tabindex: "0",
    "aria-label": "Read latency of each token in milliseconds: median, 95th percentile and maximum",
  });
  private plot: uPlot | null = null;
  private theme: Theme | null = null;
  private shown: Span = { from: 0, to: 1, origin: 0, prompt: false, until: null };
  private end = 0;
  /** Whether there is any latency to show: a scale without data would be made up. */
  private any = false;

  constructor(
    private readonly focus: Focus,
    signal: AbortSignal,
  ) {
    listen(this.node, focus, (x) => this.stepAt(x), signal);
    this.node.addEventListener("keydown", (e) => focus.stepKey(e, this.shown.from, this.end), {
      signal,
    });
    signal.addEventListener("abort", () => this.plot?.destroy());
  }

  draw(steps: StepLog, shown: Span, theme: Theme): void {
    const box = boxOf(this.node.parentElement ?? this.node);
    if (box.width < 20 || box.height < 20) return;
    this.theme = theme;
    this.shown = shown;
    const columns = ["p50", "p95", "max"] as const;
    const values = columns.map((name) => steps.column(name, shown.from, shown.to));
    const n = values[0].length;
    this.end = shown.from + n;
    this.any = values[0].some((value) => !Number.isNaN(value));
    const data: uPlot.AlignedData = [
      // The middle of a token's column, so that points sit over the bars of the other charts.
      Float64Array.from({ length: n }, (_, i) => shown.from + i + 0.5),
      ...values.map((column) => Array.from(column, (ms) => (Number.isNaN(ms) ? null : ms))),
    ];
    const size = { width: Math.floor(box.width), height: Math.floor(box.height) };
    if (!this.plot) {
      this.plot = new uPlot(this.options(size), data, this.node);
    } else {
      if (size.width !== this.plot.width || size.height !== this.plot.height) {
        this.plot.setSize(size);
      }
      this.plot.setData(data);
    }
  }

  private options(size: { width: number; height: number }): uPlot.Options {
    const colour = (role: "p50" | "p95" | "top" | "muted" | "grid") => () => this.theme![role];
    const axis = { stroke: colour("muted"), ticks: { show: false }, font: this.theme!.font };
    return {
      ...size,
      padding: [MARGIN.top, MARGIN.right, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: false, range: () => [this.shown.from, this.shown.to] },
        y: { range: (_, __, max) => [0, (max || 1) * 1.05] },
      },
      axes: [
        {
          ...axis,
          size: MARGIN.bottom,
          gap: 3,
          grid: { show: false },
          splits: () => tokenTicks(new Axis(this.shown, this.plot?.width ?? size.width)).map(mid),
          values: (_, splits) => splits.map((at) => String(at - 0.5 - this.shown.origin + 1)),
        },
        {
          ...axis,
          size: MARGIN.left,
          gap: 5,
          space: 26,
          grid: { stroke: colour("grid"), width: 1 },
          values: (_, splits) =>
            splits.map((at) => (this.any ? String(Number(at.toPrecision(4))) : "")),
        },
      ],
      series: [
        {},
        { stroke: colour("p50"), width: 1.75, points: POINTS },
        { stroke: colour("p95"), width: 1.5, dash: [5, 3], points: POINTS },
        { stroke: colour("top"), width: 1, dash: [1.5, 2.5], points: POINTS },
      ],
      hooks: { drawClear: [(u) => this.drawFocus(u)], draw: [(u) => this.drawTitles(u)] },
    };
  }

  private drawFocus(u: uPlot): void {
    const step = this.focus.step;
    if (step === null || step < this.shown.from || step >= this.shown.to) return;
    const left = u.valToPos(step, "x", true);
    const width = Math.max(3, u.valToPos(step + 1, "x", true) - left);
    u.ctx.fillStyle = this.theme!.band;
    u.ctx.fillRect(left, u.bbox.top, width, u.bbox.height);
  }

  private drawTitles(u: uPlot): void {
    const { ctx, bbox } = u;
    const scale = window.devicePixelRatio || 1;
    ctx.save();
    ctx.scale(scale, scale);
    veilLater(ctx, new Axis(this.shown, u.width), bbox.height / scale, this.theme!);
    ctx.font = this.theme!.font;
    ctx.fillStyle = this.theme!.muted;
    drawSideways(ctx, "ms", 9, (bbox.top + bbox.height / 2) / scale);
    drawCorner(ctx, "token", (bbox.top + bbox.height) / scale);
    ctx.restore();
  }

  private stepAt(clientX: number): number | null {
    const box = this.node.getBoundingClientRect();
    const step = new Axis(this.shown, box.width).step(clientX - box.left);
    return step >= this.shown.from && step < this.end ? step : null;
  }
}

const mid = (step: number): number => step + 0.5;

/** Dots only where a line cannot be seen: at tokens whose neighbours read nothing. */
const POINTS: uPlot.Series.Points = {
  show: true,
  size: 4,
  width: 1,
  filter: (u, series) => {
    const values = u.data[series];
    const has = (i: number) => values[i] !== null && values[i] !== undefined;
    return Array.from(values.keys()).filter((i) => has(i) && !has(i - 1) && !has(i + 1));
  },
};
