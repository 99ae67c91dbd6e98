// Panel: how often each expert was chosen.

import { el, setText } from "./dom";
import { integer, NONE, percent, plural } from "./format";
import { Heatmap } from "./heatmap";
import { legendItem, Panel, type Table } from "./panel";
import type { RunState } from "./state";
import { CIVIDIS, type Theme } from "./theme";

const TOP = 12;

export class RoutingPanel {
  readonly panel: Panel;
  private readonly map: Heatmap;
  private readonly most = el("span", "", {}, NONE);
  private levels = new Uint8Array(0);

  constructor(
    private readonly state: RunState,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const stops = CIVIDIS.map((rgb) => `rgb(${rgb.join(",")})`).join(",");
    const ramp = el("span", "oj-ramp", { "aria-hidden": "true" });
    ramp.style.background = `linear-gradient(to right, ${stops})`;
    const scale = el("span", "oj-legend-item", {}, "1", ramp, this.most, "(√ scale)");
    const legend = el("span", "oj-legend-row", {}, legendItem("empty", "never"), scale);
    this.panel = new Panel(
      "Routing frequency",
      "routing",
      legend,
      () => this.table(),
      changed,
      signal,
    );
    this.map = new Heatmap(
      "How often each expert was chosen, by layer and expert",
      changed,
      signal,
    );
    this.panel.add(this.map.canvas.node);
  }

  draw(theme: Theme): void {
    const { state } = this;
    if (this.levels.length !== state.counts.length)
      this.levels = new Uint8Array(state.counts.length);
    levelsOf(state.counts, state.maxCount, this.levels);
    const { layers, experts } = state;
    setText(this.most, state.maxCount ? integer(state.maxCount) : NONE);
    this.panel.setAside("times chosen");
    if (!this.panel.tableOpen) {
      this.map.draw({ layers, experts, levels: this.levels, colours: theme.ramp }, theme);
    }
    this.panel.setReadout(this.readout());
  }

  private readout(): string {
    const { state } = this;
    if (!state.seq) return "";
    const at = this.map.hovered;
    if (at === null || at >= state.counts.length) {
      const chosen = state.counts.reduce((n, count) => n + (count > 0 ? 1 : 0), 0);
      return `${integer(chosen)} of ${integer(state.counts.length)} experts chosen so far`;
    }
    const layer = Math.floor(at / state.experts);
    const share = percent(state.counts[at], state.layerTotals[layer] || 1);
    const times = plural(state.counts[at], "time");
    return `layer ${layer} · expert ${at % state.experts} · ${times} (${share} of the layer)`;
  }

  private table(): Table {
    const { counts, experts, layerTotals } = this.state;
    const order = Array.from(counts.keys()).sort((a, b) => counts[b] - counts[a]);
    const rows = order.slice(0, TOP).map((at) => {
      const layer = Math.floor(at / experts);
      const share = percent(counts[at], layerTotals[layer]);
      return [String(layer), String(at % experts), integer(counts[at]), share];
    });
    const caption = `The ${TOP} experts chosen most often`;
    return { caption, head: ["Layer", "Expert", "Times", "Of its layer"], rows };
  }
}

/** Levels 1 to 255 by the square root of the count; 0 stays 0. Written to `out`. */
export function levelsOf(counts: Uint32Array, most: number, out: Uint8Array): void {
  // Almost all counts are small, so each one's level is worked out once.
  const known = new Uint8Array(Math.min(most, 4095) + 1);
  const level = (count: number) =>
    1 + Math.round(254 * Math.sqrt((count - 1) / Math.max(1, most - 1)));
  for (let count = 1; count < known.length; count += 1) known[count] = level(count);
  for (let i = 0; i < counts.length; i += 1) {
    const count = counts[i];
    out[i] = count < known.length ? known[count] : level(count);
  }
}
