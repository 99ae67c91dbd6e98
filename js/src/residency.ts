// Panel: which experts sit in RAM, and how many look-ups of each token found theirs there.

import { Bars } from "./bars";
import { RECENT_STEPS } from "./constants";
import { el } from "./dom";
import { integer, percent, plural } from "./format";
import { Heatmap } from "./heatmap";
import type { Hover } from "./hover";
import { legendItem, Panel, type Table } from "./panel";
import { type Span, stepName } from "./span";
import type { RunState } from "./state";
import type { Theme } from "./theme";

const [ABSENT, RESIDENT, RECENT] = [0, 1, 2];

export class ResidencyPanel {
  readonly panel: Panel;
  private readonly map: Heatmap;
  private readonly bars: Bars;
  private levels = new Uint8Array(0);

  constructor(
    private readonly state: RunState,
    private readonly hover: Hover,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const legend = el(
      "span",
      "oj-legend-row",
      {},
      legendItem("resident", "in RAM"),
      legendItem("recent", "just arrived"),
      legendItem("empty", "on SSD"),
      legendItem("hit", "hit"),
      legendItem("miss", "miss"),
    );
    legend.title = `Just arrived: within the last ${RECENT_STEPS} tokens; marked with a dot and, beside its layer, with ◂`;
    const table = () => this.table();
    this.panel = new Panel("Residency", "residency", legend, table, changed, signal);
    this.map = new Heatmap("Which experts are in RAM, by layer and expert", changed, signal);
    this.bars = new Bars("Hits and misses of each token, stacked", hover, signal);
    this.panel.add(this.map.canvas.node, 3);
    this.panel.add(this.bars.canvas.node, 2);
  }

  draw(shown: Span, theme: Theme): void {
    const { state } = this;
    const held = `${integer(state.residentCount)} of ${plural(state.slots, "slot")}`;
    this.panel.setAside(state.seq ? held : "");
    this.panel.setReadout(this.readout(shown));
    if (this.panel.tableOpen) return;
    if (this.levels.length !== state.resident.length) {
      this.levels = new Uint8Array(state.resident.length);
    }
    for (let i = 0; i < this.levels.length; i += 1) {
      const here = state.isRecent(i) ? RECENT : RESIDENT;
      this.levels[i] = state.resident[i] ? here : ABSENT;
    }
    const { layers, experts } = state;
    const map = { layers, experts, levels: this.levels, colours: theme.residency, marked: RECENT };
    this.map.draw(map, theme);
    const column = (name: "hits" | "misses") => state.steps.column(name, shown.from, shown.to);
    const parts = [
      { values: column("hits"), colour: theme.hit },
      { values: column("misses"), colour: theme.miss, hatched: true },
    ];
    this.bars.draw({ shown, parts, title: "look-ups" }, theme);
  }

  private readout(shown: Span): string {
    const { state, hover } = this;
    if (!state.seq) return "";
    const at = this.map.hovered;
    if (at !== null && at < state.resident.length) {
      const name = `layer ${Math.floor(at / state.experts)} · expert ${at % state.experts}`;
      if (!state.resident[at]) return `${name} · on SSD`;
      const ago = state.arrivedAgo(at);
      if (ago === null) return `${name} · in RAM`;
      const when = ago ? `${plural(ago, "token")} ago` : "with the last token";
      return `${name} · in RAM, arrived ${when}`;
    }
    if (hover.step !== null) {
      const hits = state.steps.at("hits", hover.step);
      const misses = state.steps.at("misses", hover.step);
      if (Number.isNaN(hits)) return "";
      const rate = percent(hits, hits + misses);
      return `${stepName(hover.step, shown)} · ${plural(hits, "hit")}, ${misses} missed (${rate} hits)`;
    }
    return `hits and misses of each ${shown.prompt ? "prompt token" : "generated token"}, all layers`;
  }

  private table(): Table {
    const { layers, experts, resident } = this.state;
    const rows: string[][] = [];
    for (let layer = 0; layer < layers; layer += 1) {
      const row = resident.subarray(layer * experts, (layer + 1) * experts);
      const ids = Array.from(row.keys()).filter((expert) => row[expert]);
      rows.push([String(layer), integer(ids.length), ranges(ids)]);
    }
    return { caption: "Experts in RAM now", head: ["Layer", "In RAM", "Experts"], rows };
  }
}

/** [1, 2, 3, 7] → "1–3, 7". */
export function ranges(sorted: number[]): string {
  const out: string[] = [];
  for (let i = 0; i < sorted.length; ) {
    let end = i;
    while (sorted[end + 1] === sorted[end] + 1) end += 1;
    out.push(end > i ? `${sorted[i]}–${sorted[end]}` : String(sorted[i]));
    i = end + 1;
  }
  return out.join(", ");
}
