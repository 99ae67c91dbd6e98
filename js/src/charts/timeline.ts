// One token's timeline: its reads from left to right, a row for each layer, and bands where it
// waited. It knows neither the run nor where the times come from.

import { el, setText } from "../widget/dom";
import { bytes, ms } from "../widget/format";
import { same } from "../widget/same";
import type { Theme } from "../widget/theme";
import { Canvas } from "./canvas";

/** [layer, expert, begin, end, bytes] of a read; times in ms since the call began. */
export type Read = readonly [number, number, number, number, number];
/** [layer, begin, end] of a layer's wait. */
export type Wait = readonly [number, number, number];

export interface TokenTimes {
  /** Wall time in ms. */
  ms: number;
  reads: readonly Read[];
  waits: readonly Wait[];
}

/** Room for the labels of the time axis, and the width of the shortest read, in CSS pixels. */
const BELOW = 13;
const NARROWEST_READ = 2;

export class Timeline {
  readonly node: HTMLElement;
  readonly #canvas = new Canvas("Reads of the token over time, by layer");
  readonly #readout = el("div", "oj-timeline-readout");
  #times: TokenTimes | null = null;
  #layers = 1;
  #drawn: unknown[] = [];

  constructor(signal: AbortSignal) {
    const { node } = this.#canvas;
    node.removeAttribute("tabindex"); // the sentences say what matters
    node.addEventListener("pointermove", (event) => this.#point(event), { signal });
    node.addEventListener("pointerleave", () => this.#say(null), { signal });
    this.node = el("div", "oj-timeline", {}, this.#readout);
  }

  draw(times: TokenTimes | null, layers: number, theme: Theme): void {
    this.node.hidden = !times?.reads.length;
    if (this.node.hidden || !times) return;
    if (!this.#canvas.node.isConnected) this.node.prepend(this.#canvas.node);
    if (!this.#canvas.fit()) return;
    const { width, height, scale } = this.#canvas;
    const now = [times, layers, theme, width, height, scale];
    if (same(now, this.#drawn)) return;
    this.#drawn = now;
    [this.#times, this.#layers] = [times, layers];
    this.#say(null);
    this.#paint(times, theme);
  }

  #paint({ ms: total, reads, waits }: TokenTimes, theme: Theme): void {
    const canvas = this.#canvas;
    const { context, width } = canvas;
    const bottom = canvas.height - BELOW;
    const row = bottom / this.#layers;
    const x = (at: number) => (at / total) * width;
    canvas.clear();
    context.fillStyle = theme.miss;
    context.globalAlpha = 0.22;
    for (const [, begin, end] of waits) {
      context.fillRect(x(begin), 0, Math.max(0.5, x(end) - x(begin)), bottom);
    }
    context.globalAlpha = 1;
    context.fillStyle = theme.read;
    const high = Math.max(1.5, Math.min(6, row - 1));
    for (const [layer, , begin, end] of reads) {
      const y = (layer + 0.5) * row - high / 2;
      context.fillRect(x(begin), y, Math.max(NARROWEST_READ, x(end) - x(begin)), high);
    }
    context.fillStyle = theme.grid;
    context.fillRect(0, bottom, width, 1);
    context.fillStyle = theme.muted;
    context.font = theme.font;
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    context.fillText("0", 0, bottom + 11);
    context.textAlign = "right";
    context.fillText(ms(total), width, bottom + 11);
  }

  #point(event: PointerEvent): void {
    const times = this.#times;
    if (!times) return;
    const box = this.#canvas.node.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * times.ms;
    const layer = ((event.clientY - box.top) / (box.height - BELOW)) * this.#layers - 0.5;
    const near = (times.ms / box.width) * 4;
    let best: Read | null = null;
    for (const read of times.reads) {
      if (at < read[2] - near || at > read[3] + near) continue;
      if (!best || Math.abs(read[0] - layer) < Math.abs(best[0] - layer)) best = read;
    }
    this.#say(best);
  }

  #say(read: Read | null): void {
    const text = read
      ? `layer ${read[0]}, expert ${read[1]}: ${bytes(read[4])} in ${ms(read[3] - read[2])}`
      : "reads by layer; shaded: waits";
    setText(this.#readout, text);
    this.#readout.classList.toggle("oj-pointed", !!read); // it may cover the ends of the axis
  }
}
