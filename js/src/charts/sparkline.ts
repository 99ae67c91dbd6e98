// A small line of a number over the run's tokens, without axes: it shows the course, not values.

import { el } from "../widget/dom";
import { same } from "../widget/same";
import type { Theme } from "../widget/theme";

/** Size in CSS pixels. */
const [WIDTH, HEIGHT] = [64, 20];
/** How many points there are at most; tokens that share one show their highest value. */
const POINTS = 32;

export class Sparkline {
  readonly node = el("canvas", "oj-spark", { "aria-hidden": "true" });
  /** What the last drawing showed. */
  #drawn: readonly unknown[] = [];
  #values: ArrayLike<number> | null = null;
  #points: number[] = [];

  /** Draw `values`, with a dot at the value numbered `at`. */
  draw(values: ArrayLike<number>, at: number | null, theme: Theme): void {
    if (values !== this.#values) this.#points = highest(values, POINTS);
    this.#values = values;
    const points = this.#points;
    const mark =
      at === null || !values.length ? null : Math.floor((at * points.length) / values.length);
    const scale = Math.max(1, window.devicePixelRatio || 1);
    const from = [points, mark, scale, theme.hit];
    if (same(from, this.#drawn)) return;
    this.#drawn = from;
    this.node.width = WIDTH * scale;
    this.node.height = HEIGHT * scale;
    const context = this.node.getContext("2d")!;
    context.scale(scale, scale);
    const top = Math.max(...points.filter((value) => !Number.isNaN(value)));
    if (!(top > 0)) return;
    const place = (i: number): [number, number] => [
      2 + ((WIDTH - 4) * i) / Math.max(1, points.length - 1),
      HEIGHT - 2 - ((HEIGHT - 4) * points[i]) / top,
    ];
    context.strokeStyle = context.fillStyle = theme.hit;
    context.lineWidth = 1.25;
    context.lineJoin = "round";
    context.beginPath();
    let joined = false;
    points.forEach((value, i) => {
      if (!Number.isNaN(value)) context[joined ? "lineTo" : "moveTo"](...place(i));
      joined = !Number.isNaN(value);
    });
    context.stroke();
    if (mark === null || !(points[mark] >= 0)) return;
    context.fillStyle = theme.ink;
    context.beginPath();
    context.arc(...place(mark), 2.5, 0, 2 * Math.PI);
    context.fill();
  }
}

/** The highest of each group of values, in at most `most` groups; NaN for a group without values. */
export function highest(values: ArrayLike<number>, most: number): number[] {
  const groups = Math.min(most, values.length);
  const out = new Array<number>(groups).fill(Number.NaN);
  for (let i = 0; i < values.length; i += 1) {
    const group = Math.floor((i * groups) / values.length);
    if (values[i] > out[group] || Number.isNaN(out[group])) out[group] = values[i];
  }
  return out;
}
