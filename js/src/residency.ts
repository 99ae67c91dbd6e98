// Panel: which experts sit in RAM, and how many look-ups of each token found theirs there.

import { Bars } from "./bars";
import { RECENT_STEPS } from "./constants";
import { el } from "./dom";
import type { Focus } from "./focus";
import { integer, percent, plural } from "./format";
import { Heatmap } from "./heatmap";
import type { Look } from "./look";
import { legendItem, Panel, type Table } from "./panel";
import type { Picture, RunState } from "./state";

const [ABSENT, RESIDENT, RECENT] = [0, 1, 2];

export class ResidencyPanel {
  readonly panel: Panel;
  private readonly map: Heatmap;
  private readonly bars: Bars;
  private levels = new Uint8Array(0);
  private picture: Picture;

  constructor(
    private readonly state: RunState,
    private readonly focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    this.picture = state;
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
    this.map = new Heatmap("Which experts are in RAM, by layer and expert", focus, signal);
    this.bars = new Bars("Hits and misses of each token, stacked", focus, signal);
    this.panel.add(this.map.canvas.node, 3);
    this.panel.add(this.bars.canvas.node, 2);
  }

  draw(look: Look): void {
    const { state } = this;
    const { picture, theme, shown, lit } = look;
    this.picture = picture;
    const held = `${integer(picture.residentCount)} of ${plural(state.slots, "slot")}`;
    this.panel.setAside(state.seq ? held : "");
    this.panel.setReadout(this.readout(look));
    if (!this.panel.drawn) return;
    if (this.levels.length !== picture.resident.length) {
      this.levels = new Uint8Array(picture.resident.length);
    }
    for (let i = 0; i < this.levels.length; i += 1) {
      const here = picture.isRecent(i) ? RECENT : RESIDENT;
      this.levels[i] = picture.resident[i] ? here : ABSENT;
    }
    const { layers, experts } = state;
    const map = { layers, experts, levels: this.levels, colours: theme.residency, marked: RECENT };
    this.map.draw({ ...map, chosen: look.chosen }, theme);
    const column = (name: "hits" | "misses") => state.steps.column(name, shown.from, shown.to);
    const parts = [
      { values: column("hits"), colour: theme.hit },
      { values: column("misses"), colour: theme.miss, hatched: true },
    ];
    this.bars.draw({ shown, parts, title: "look-ups", lit }, theme);
  }

  private readout(look: Look): string {
    const { state, focus } = this;
    if (!state.seq) return "";
    const { cell } = focus;
    const step = focus.step ?? look.shown.until;
    if (cell && cell.layer < state.layers && (cell.expert ?? 0) < state.experts) {
      return cell.expert === null
        ? this.aboutLayer(cell.layer, look)
        : this.about(cell.layer, cell.expert, look);
    }
    if (step !== null) {
      const hits = state.steps.at("hits", step);
      const misses = state.steps.at("misses", step);
      if (Number.isNaN(hits)) return "";
      const rate = percent(hits, hits + misses);
      return `${look.name(step)} · ${plural(hits, "hit")}, ${misses} missed (${rate} hits)`;
    }
    return `hits and misses of each ${look.shown.prompt ? "prompt token" : "generated token"}, all layers`;
  }

  private about(layer: number, expert: number, look: Look): string {
    const at = layer * this.state.experts + expert;
    const name = `layer ${layer} · expert ${expert}`;
    const used = look.lit ? ` · used by ${plural(look.lit.length, "token")}` : "";
    if (!look.picture.resident[at]) return `${name} · on SSD${used}`;
    const ago = look.picture.arrivedAgo(at);
    if (ago === null) return `${name} · in RAM${used}`;
    const when = ago ? `${plural(ago, "token")} ago` : "with the last token";
    return `${name} · in RAM, arrived ${when}${used}`;
  }

  private aboutLayer(layer: number, look: Look): string {
    const { experts } = this.state;
    const row = look.picture.resident.subarray(layer * experts, (layer + 1) * experts);
    const held = row.reduce((n, here) => n + here, 0);
    const name = `layer ${layer} · ${integer(held)} of ${plural(experts, "expert")} in RAM`;
    const step = this.focus.step;
    if (step === null) return name;
    const [hits, asked] = this.state.layerHits(step, layer);
    return asked ? `${name} · ${look.name(step)}: ${hits} of ${plural(asked, "hit")}` : name;
  }

  private table(): Table {
    const { layers, experts } = this.state;
    const { resident } = this.picture;
    const rows: string[][] = [];
    for (let layer = 0; layer < layers; layer += 1) {
      const row = resident.subarray(layer * experts, (layer + 1) * experts);
      const ids = Array.from(row.keys()).filter((expert) => row[expert]);
      rows.push([String(layer), integer(ids.length), ranges(ids)]);
    }
    return { caption: "Experts in RAM", head: ["Layer", "In RAM", "Experts"], rows };
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
