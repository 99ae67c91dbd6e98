// Experts × tokens: a thin row per expert, with a band while it is in RAM and a dot where it is used.
//
// Rows that are too many for the plot share a row; its bands are the darker, the more of them are in
// RAM. It knows nothing of runs.

import type { Theme } from "../widget/theme";
import { drawSideways, MARGIN } from "./axes";
import { Brush } from "./brush";
import { Canvas } from "./canvas";
import { consume, type Focus } from "./focus";
import { Overlay } from "./overlay";
import { drawTokenAxis } from "./plot";
import { Axis, type StepRange } from "./step-range";

/** An expert in RAM in the steps [from, to). */
export interface Band {
  expert: number;
  from: number;
  to: number;
  arrived: boolean;
  evicted: boolean;
}

export interface BandContent {
  shown: StepRange;
  layer: number;
  /** The expert of each row, ascending. */
  experts: readonly number[];
  bands: readonly Band[];
  /** Calls `each` for every use of an expert in the steps shown. */
  uses: (each: (expert: number, step: number, hit: boolean) => void) => void;
  /** One past the last step. */
  end: number;
}

/** The lowest row, and the lowest with signs, in CSS pixels. */
const [LOWEST, SIGNS_FROM] = [2, 5];

export class Bands {
  readonly canvas: Canvas;
  /** How many experts share a row. */
  shared = 1;
  readonly #overlay = new Overlay();
  #content: BandContent | null = null;
  #axis: Axis | null = null;
  #key = "";
  #drawnFrom: readonly unknown[] = [];

  constructor(
    label: string,
    private readonly focus: Focus,
    signal: AbortSignal,
  ) {
    this.canvas = new Canvas(label);
    const { node } = this.canvas;
    new Brush(node, () => this.#axis, focus, signal);
    const on = <Name extends keyof HTMLElementEventMap>(
      name: Name,
      act: (event: HTMLElementEventMap[Name]) => void,
    ) => node.addEventListener(name, act, { signal });
    on("pointermove", (event) => {
      const { expert, step } = this.#under(event);
      focus.hoverStep(step);
      focus.hoverCell(expert === null ? null : { layer: this.#content!.layer, expert });
    });
    const leave = () => {
      focus.hoverStep(null);
      focus.hoverCell(null);
    };
    on("pointerleave", leave);
    on("blur", leave);
    on("click", (event) => {
      const { step } = this.#under(event);
      if (step !== null) focus.moveTo(step);
    });
    on("keydown", (event) => this.#onKey(event));
  }

  /** `changed` says whether the content differs from that of the last call. */
  draw(content: BandContent, theme: Theme, changed: boolean): void {
    this.#content = content;
    if (!this.canvas.fit()) return;
    const { width, height, scale } = this.canvas;
    const axis = new Axis(content.shown, width);
    this.#axis = axis;
    if (!this.#overlay.node.isConnected) this.canvas.node.after(this.#overlay.node);
    this.#overlay.place(axis, MARGIN.top + this.#height, this.focus.at, this.focus.step);
    const { cells, cell } = this.focus;
    const key = JSON.stringify([width, height, scale, content.shown, content.layer, cells, cell]);
    if (key === this.#key && !changed && theme === this.#drawnFrom[0]) return;
    [this.#key, this.#drawnFrom] = [key, [theme]];
    this.canvas.clear();
    this.shared = Math.max(1, Math.ceil((LOWEST * content.experts.length) / this.#height));
    this.#drawAxes(content, axis, theme);
    this.#drawBands(content, axis, theme);
    this.#drawUses(content, axis, theme);
    this.#drawFocus(content, axis, theme);
  }

  get #height(): number {
    return this.canvas.height - MARGIN.top - MARGIN.bottom;
  }

  get #rows(): number {
    return Math.max(1, Math.ceil((this.#content?.experts.length ?? 0) / this.shared));
  }

  get #rowHeight(): number {
    return Math.min(14, this.#height / this.#rows);
  }

  /** The top of the row of each expert. */
  #tops({ experts }: BandContent): Map<number, number> {
    const { shared } = this,
      rowHeight = this.#rowHeight;
    return new Map(
      experts.map((expert, n) => [expert, MARGIN.top + Math.floor(n / shared) * rowHeight]),
    );
  }

  #drawBands(content: BandContent, axis: Axis, theme: Theme): void {
    const { context } = this.canvas;
    const { from, to } = content.shown;
    const rowHeight = this.#rowHeight;
    const tops = this.#tops(content);
    const signs = rowHeight >= SIGNS_FROM;
    const half = Math.min(3, rowHeight / 2 - 1);
    const [arrivals, evictions] = [new Path2D(), new Path2D()];
    context.fillStyle = theme.stays;
    context.globalAlpha = Math.max(0.08, 0.6 / this.shared);
    for (const band of content.bands) {
      const begin = Math.max(from, band.from);
      const end = Math.min(to, band.evicted ? band.to + 1 : band.to);
      if (end <= begin) continue;
      const [left, right, y] = [axis.left(begin), axis.left(end), tops.get(band.expert)!];
      context.fillRect(left, y + 0.5, Math.max(1, right - left), Math.max(1, rowHeight - 1));
      const middle = y + rowHeight / 2;
      if (band.arrived && band.from >= from) {
        if (signs) triangle(arrivals, left, middle, half);
        else arrivals.rect(left, y, 1, rowHeight);
      }
      if (band.evicted && band.to < to && signs) cross(evictions, right - half, middle, half - 0.5);
    }
    context.globalAlpha = 1;
    context.fillStyle = context.strokeStyle = theme.ink;
    context.globalAlpha = signs ? 1 : Math.max(0.2, 0.8 / this.shared);
    context.fill(arrivals);
    context.lineWidth = 1.25;
    context.stroke(evictions);
    context.globalAlpha = 1;
  }

  #drawUses(content: BandContent, axis: Axis, theme: Theme): void {
    const { context } = this.canvas;
    const { from } = content.shown;
    const rowHeight = this.#rowHeight;
    const tops = this.#tops(content);
    const width = axis.left(from + 1) - axis.left(from);
    const radius = Math.min(2, rowHeight / 3, Math.max(0.75, width / 3));
    const dots = new Path2D();
    content.uses((expert, step) => {
      const y = tops.get(expert);
      if (y === undefined) return;
      const [x, middle] = [axis.left(step + 0.5), y + rowHeight / 2];
      if (radius < 1) dots.rect(x - radius, middle - radius, 2 * radius, 2 * radius);
      else {
        dots.moveTo(x + radius, middle);
        dots.arc(x, middle, radius, 0, 2 * Math.PI);
      }
    });
    context.fillStyle = theme.ink;
    context.fill(dots);
  }

  #drawFocus(content: BandContent, axis: Axis, theme: Theme): void {
    const { context } = this.canvas;
    const tops = this.#tops(content);
    context.strokeStyle = theme.highlight;
    context.lineWidth = 1.5;
    for (const cell of new Set([...this.focus.cells, this.focus.cell])) {
      const y = cell?.layer === content.layer ? tops.get(cell.expert ?? -1) : undefined;
      if (y !== undefined) context.strokeRect(axis.x, y, axis.width, Math.max(3, this.#rowHeight));
    }
  }

  #drawAxes(content: BandContent, axis: Axis, theme: Theme): void {
    const { context } = this.canvas;
    const base = MARGIN.top + this.#height;
    context.fillStyle = theme.grid;
    context.fillRect(axis.x, base - 0.5, axis.width, 1);
    context.font = theme.font;
    context.fillStyle = theme.muted;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const every = Math.max(1, Math.ceil(12 / this.#rowHeight));
    for (let row = 0; row < this.#rows; row += every) {
      const y = MARGIN.top + (row + 0.5) * this.#rowHeight;
      const expert = content.experts[row * this.shared];
      if (expert !== undefined) context.fillText(String(expert), axis.x - 5, y);
    }
    drawTokenAxis(context, axis, base);
    drawSideways(context, "expert", 9, MARGIN.top + this.#height / 2);
  }

  #under(event: MouseEvent): { expert: number | null; step: number | null } {
    const axis = this.#axis,
      content = this.#content;
    if (!axis || !content) return { expert: null, step: null };
    const box = this.canvas.node.getBoundingClientRect();
    const step = axis.step(event.clientX - box.left);
    const row = Math.floor((event.clientY - box.top - MARGIN.top) / this.#rowHeight);
    const inside = step >= content.shown.from && step < Math.min(content.shown.to, content.end);
    const expert = row < 0 ? undefined : content.experts[row * this.shared];
    return { expert: expert ?? null, step: inside ? step : null };
  }

  /** The arrow keys up and down choose a row, Enter pins its expert; left and right move the playhead. */
  #onKey(event: KeyboardEvent): void {
    const { focus } = this,
      content = this.#content;
    if (!content?.experts.length) return;
    if (event.key === "Enter" || event.key === " ") {
      consume(event);
      focus.pinCell(event.shiftKey);
    }
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!by) return;
    consume(event);
    const at = content.experts.indexOf(focus.cell?.expert ?? -1);
    const next = Math.max(0, Math.min(content.experts.length - 1, at + by));
    focus.hoverCell({ layer: content.layer, expert: content.experts[next] });
  }
}

function triangle(path: Path2D, x: number, y: number, half: number): void {
  path.moveTo(x, y - half);
  path.lineTo(x + 1.5 * half, y);
  path.lineTo(x, y + half);
  path.closePath();
}

function cross(path: Path2D, x: number, y: number, half: number): void {
  path.moveTo(x - half, y - half);
  path.lineTo(x + half, y + half);
  path.moveTo(x - half, y + half);
  path.lineTo(x + half, y - half);
}
