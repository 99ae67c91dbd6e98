// Panel: which experts are in RAM, and how many lookups of each token hit.

import { Bars } from "../../charts/bars";
import type { Focus } from "../../charts/focus";
import { el } from "../../widget/dom";
import { integer, percent, plural } from "../../widget/format";
import type { DrawInput } from "../draw-input";
import { RECENT_STEPS } from "../limits";
import { RecencyFade } from "../recency-fade";
import type { ExpertStates, RunState } from "../state";
import { ExpertMap } from "./expert-map";
import { legendItem, Panel, type Table } from "./panel";
import { ABSENT, ARRIVED, EVICTED, RESIDENT, residencyColours } from "./residency-levels";

export class ResidencyPanel {
  readonly panel: Panel;
  private readonly map: ExpertMap;
  private readonly bars: Bars;
  private readonly recency: RecencyFade;

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
      legendItem("evicted", "just evicted"),
      legendItem("empty", "on SSD"),
      legendItem("hit", "hit"),
      legendItem("miss", "miss"),
    ];
    const legend = el("span", "oj-legend-row", {}, ...items);
    legend.title =
      `Just arrived or evicted: within the last ${RECENT_STEPS} tokens; marked with a dot or a cross ` +
      "and, beside its layer, with ◂ or ▹. In use: chosen by the newest tokens";
    const table = () => this.table();
    this.panel = new Panel("Residency", "residency", legend, table, changed, signal);
    const label = "Which experts are in RAM, by layer and expert";
    this.map = new ExpertMap(state, this.panel, label, focus, signal, 3);
    this.bars = new Bars("Hits and misses of each token, stacked", focus, signal);
    this.panel.add(this.bars.plot.canvas.node, 2);
    this.recency = new RecencyFade(state);
  }

  /** Draw the experts. Those in use fade with `now` (ms); with null none is shown as in use. */
  draw(input: DrawInput, now: number | null): void {
    const { state } = this;
    const { theme, shown, users: highlighted } = input;
    const states = input.found?.experts ?? input.experts;
    this.map.setStates(states);
    this.panel.setReadout(this.readout(input), this.focus.any);
    if (this.panel.drawn) {
      const newest = input.found ? input.found.step - 1 : (input.at ?? state.steps.end - 1);
      this.recency.show(newest, now ?? 0);
      if (now === null) this.recency.clear();
      else this.recency.fade(now);
      this.setLevels(states);
      // Rings need the experts as the token found them: else a hit could lie on an expert on SSD.
      const chosen = input.found && input.chosen;
      const moved = { arrived: ARRIVED, evicted: EVICTED };
      this.map.draw(theme, residencyColours(theme), chosen, moved);
      const column = (name: "hits" | "misses") => state.steps.column(name, shown.from, shown.to);
      const parts = [
        { values: column("hits"), colour: theme.hit },
        { values: column("misses"), colour: theme.miss, hatched: true },
      ];
      this.bars.draw({ shown, parts, by: parts[1].values, title: "lookups", highlighted }, theme);
    }
    const resident = `${integer(states.residentCount)} of ${plural(state.slots, "slot")}`;
    this.panel.setSubtitle(state.seq ? resident + this.when(input) : "");
    this.panel.setNote(this.map.note);
  }

  /** The moment that the map shows, if it differs from the charts'. */
  private when({ found, chosen, name }: DrawInput): string {
    if (found) return ` · as ${name(found.step)} found them`;
    return chosen ? " · not as that token found them (no longer kept)" : "";
  }

  /** Whether an expert in use is fading. */
  get fading(): boolean {
    return this.panel.drawn && this.recency.fading;
  }

  /** Fade the experts in use, and change nothing else. */
  fade(now: number): void {
    if (!this.fading || !this.recency.fade(now)) return;
    const { levels } = this.map;
    const { stages } = this.recency;
    for (let i = 0; i < levels.length; i += 1) {
      const level = levels[i];
      if (level >= RESIDENT && level < EVICTED) levels[i] = RESIDENT + stages[i];
    }
    this.map.drawLevels();
  }

  private setLevels(states: ExpertStates): void {
    const { levels } = this.map;
    const { stages } = this.recency;
    const { resident } = states;
    for (let i = 0; i < levels.length; i += 1) {
      const moved = states.isRecent(i);
      if (resident[i]) levels[i] = moved ? ARRIVED : RESIDENT + stages[i];
      else levels[i] = moved ? EVICTED : ABSENT;
    }
  }

  private readout(input: DrawInput): string {
    const { state, focus } = this;
    if (!state.seq) return "";
    const { cell } = focus;
    const { step } = input;
    if (cell && cell.layer < state.layers && (cell.expert ?? 0) < state.experts) {
      return cell.expert === null
        ? this.aboutLayer(cell.layer, input)
        : this.about(cell.layer, cell.expert, input);
    }
    if (step !== null) {
      const hits = state.steps.at("hits", step);
      const misses = state.steps.at("misses", step);
      if (Number.isNaN(hits)) return "";
      const rate = percent(hits, hits + misses);
      return `${input.name(step)} · ${plural(hits, "hit")}, ${misses} missed (${rate} hits)`;
    }
    return `hits and misses of each ${input.shown.prompt ? "prompt token" : "generated token"}, all layers`;
  }

  private about(layer: number, expert: number, input: DrawInput): string {
    const at = layer * this.state.experts + expert;
    const { states } = this.map;
    const here = states.resident[at] ? "in RAM" : "on SSD";
    const ago = states.movedAgo(at);
    const verb = states.resident[at] ? "arrived" : "evicted";
    const when = ago ? `${plural(ago, "token")} ago` : "with the last token";
    const parts = [`layer ${layer}`, `expert ${expert}`];
    parts.push(ago === null ? here : `${here}, ${verb} ${when}`);
    if (input.users) parts.push(`used by ${plural(input.users.length, "token")}`);
    return parts.join(" · ");
  }

  private aboutLayer(layer: number, input: DrawInput): string {
    const { experts } = this.state;
    const row = this.map.states.resident.subarray(layer * experts, (layer + 1) * experts);
    const inRam = row.reduce((n, here) => n + here, 0);
    const name = `layer ${layer} · ${integer(inRam)} of ${plural(experts, "expert")} in RAM`;
    const step = this.focus.step;
    if (step === null) return name;
    const [hits, lookups] = this.state.layerHits(step, layer);
    return lookups ? `${name} · ${input.name(step)}: ${hits} of ${plural(lookups, "hit")}` : name;
  }

  private table(): Table {
    const { layers, experts } = this.state;
    const { resident } = this.map.states;
    const rows: string[][] = [];
    for (let layer = 0; layer < layers; layer += 1) {
      const row = resident.subarray(layer * experts, (layer + 1) * experts);
      const ids = Array.from(row.keys()).filter((expert) => row[expert]);
      const { arrived, evicted } = this.movedIn(layer);
      rows.push([
        String(layer),
        integer(ids.length),
        ranges(ids),
        ranges(arrived),
        ranges(evicted),
      ]);
    }
    const head = ["Layer", "In RAM", "Experts", "Just arrived", "Just evicted"];
    return { caption: "Experts in RAM", head, rows };
  }

  /** The experts of a layer that arrived or were evicted within the last few tokens. */
  private movedIn(layer: number): { arrived: number[]; evicted: number[] } {
    const { experts } = this.state;
    const { states } = this.map;
    const [arrived, evicted]: [number[], number[]] = [[], []];
    for (let expert = 0; expert < experts; expert += 1) {
      const at = layer * experts + expert;
      if (states.isRecent(at)) (states.resident[at] ? arrived : evicted).push(expert);
    }
    return { arrived, evicted };
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
