// Panel: which experts sit in RAM, and how many look-ups of each token found theirs there.

import { Bars } from "../../charts/bars";
import { RECENT_STEPS } from "../limits";
import { el } from "../../widget/dom";
import { ExpertMap } from "./expert-map";
import type { Focus } from "../../charts/focus";
import { integer, percent, plural } from "../../widget/format";
import { Glow } from "../recency-fade";
import type { Look } from "../draw-input";
import { legendItem, Panel, type Table } from "./panel";
import type { Picture, RunState } from "../state";
import { RESIDENCY } from "../../widget/theme";

const { ABSENT, RESIDENT, LEFT, ARRIVED } = RESIDENCY;

export class ResidencyPanel {
  readonly panel: Panel;
  private readonly map: ExpertMap;
  private readonly bars: Bars;
  private readonly glow: Glow;

  constructor(
    private readonly state: RunState,
    private readonly focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const items = [
      legendItem("resident", "in RAM"),
      legendItem("used", "in use"),
      legendItem("recent", "just arrived"),
      legendItem("left", "just left"),
      legendItem("empty", "on SSD"),
      legendItem("hit", "hit"),
      legendItem("miss", "miss"),
    ];
    const legend = el("span", "oj-legend-row", {}, ...items);
    legend.title =
      `Just arrived or left: within the last ${RECENT_STEPS} tokens; marked with a dot or a cross ` +
      "and, beside its layer, with ◂ or ▹. In use: chosen by the newest tokens";
    const table = () => this.table();
    this.panel = new Panel("Residency", "residency", legend, table, changed, signal);
    const label = "Which experts are in RAM, by layer and expert";
    this.map = new ExpertMap(state, this.panel, label, focus, signal, 3);
    this.bars = new Bars("Hits and misses of each token, stacked", focus, signal);
    this.panel.add(this.bars.plot.canvas.node, 2);
    this.glow = new Glow(state);
  }

  /** Draw the run as `look` has it; `now` (ms) lets the experts in use glow, null lets none. */
  draw(look: Look, now: number | null): void {
    const { state } = this;
    const { theme, shown, lit } = look;
    const picture = this.map.take(look.found?.picture ?? look.picture);
    this.panel.setReadout(this.readout(look), this.focus.any);
    if (this.panel.drawn) {
      const newest = look.found ? look.found.step - 1 : (shown.until ?? state.steps.end - 1);
      this.glow.show(newest, now ?? 0);
      if (now === null) this.glow.douse();
      else this.glow.fade(now);
      this.setLevels(picture);
      // Rings are those of the moment that is shown: else a hit could lie on an expert on SSD.
      const ringed = look.found && look.chosen;
      this.map.draw(theme, theme.residency, ringed, { arrived: ARRIVED, left: LEFT });
      const column = (name: "hits" | "misses") => state.steps.column(name, shown.from, shown.to);
      const parts = [
        { values: column("hits"), colour: theme.hit },
        { values: column("misses"), colour: theme.miss, hatched: true },
      ];
      this.bars.draw({ shown, parts, title: "look-ups", lit }, theme);
    }
    const held = `${integer(picture.residentCount)} of ${plural(state.slots, "slot")}`;
    this.panel.setAside(state.seq ? held + this.when(look) : "");
    this.panel.setNote(this.map.note);
  }

  /** Of which moment the map is, where that is another than the charts'. */
  private when({ found, chosen, name }: Look): string {
    if (found) return ` · as ${name(found.step)} found them`;
    return chosen ? " · not as that token found them: that is not kept" : "";
  }

  /** Whether there is something that fades as time passes. */
  get fading(): boolean {
    return this.panel.drawn && this.glow.fading;
  }

  /** Let the experts in use fade; all else stays. */
  fade(now: number): void {
    if (!this.fading || !this.glow.fade(now)) return;
    const { levels } = this.map;
    const { stages } = this.glow;
    for (let i = 0; i < levels.length; i += 1) {
      const level = levels[i];
      if (level >= RESIDENT && level < LEFT) levels[i] = RESIDENT + stages[i];
    }
    this.map.drawLevels();
  }

  private setLevels(picture: Picture): void {
    const { levels } = this.map;
    const { stages } = this.glow;
    const { resident } = picture;
    for (let i = 0; i < levels.length; i += 1) {
      const moved = picture.isRecent(i);
      if (resident[i]) levels[i] = moved ? ARRIVED : RESIDENT + stages[i];
      else levels[i] = moved ? LEFT : ABSENT;
    }
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
    const { picture } = this.map;
    const here = picture.resident[at] ? "in RAM" : "on SSD";
    const ago = picture.movedAgo(at);
    const verb = picture.resident[at] ? "arrived" : "left";
    const when = ago ? `${plural(ago, "token")} ago` : "with the last token";
    const words = [`layer ${layer}`, `expert ${expert}`];
    words.push(ago === null ? here : `${here}, ${verb} ${when}`);
    if (look.lit) words.push(`used by ${plural(look.lit.length, "token")}`);
    return words.join(" · ");
  }

  private aboutLayer(layer: number, look: Look): string {
    const { experts } = this.state;
    const row = this.map.picture.resident.subarray(layer * experts, (layer + 1) * experts);
    const held = row.reduce((n, here) => n + here, 0);
    const name = `layer ${layer} · ${integer(held)} of ${plural(experts, "expert")} in RAM`;
    const step = this.focus.step;
    if (step === null) return name;
    const [hits, asked] = this.state.layerHits(step, layer);
    return asked ? `${name} · ${look.name(step)}: ${hits} of ${plural(asked, "hit")}` : name;
  }

  private table(): Table {
    const { layers, experts } = this.state;
    const { resident } = this.map.picture;
    const rows: string[][] = [];
    for (let layer = 0; layer < layers; layer += 1) {
      const row = resident.subarray(layer * experts, (layer + 1) * experts);
      const ids = Array.from(row.keys()).filter((expert) => row[expert]);
      const { came, went } = this.movedIn(layer);
      rows.push([String(layer), integer(ids.length), ranges(ids), ranges(came), ranges(went)]);
    }
    const head = ["Layer", "In RAM", "Experts", "Just arrived", "Just left"];
    return { caption: "Experts in RAM", head, rows };
  }

  /** The experts of a layer that came or went within the last few tokens. */
  private movedIn(layer: number): { came: number[]; went: number[] } {
    const { experts } = this.state;
    const { picture } = this.map;
    const [came, went]: [number[], number[]] = [[], []];
    for (let expert = 0; expert < experts; expert += 1) {
      const at = layer * experts + expert;
      if (picture.isRecent(at)) (picture.resident[at] ? came : went).push(expert);
    }
    return { came, went };
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
