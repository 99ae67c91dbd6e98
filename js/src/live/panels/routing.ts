// Panel: how often each expert was chosen.

import { CIVIDIS, cividisOf } from "../../charts/colours";
import type { Focus } from "../../charts/focus";
import { el, setText } from "../../widget/dom";
import { integer, NONE, percent, plural } from "../../widget/format";
import type { DrawInput } from "../draw-input";
import type { RunState } from "../state";
import { ExpertMap } from "./expert-map";
import { legendItem, Panel, type Table } from "./panel";

/** Experts in the table. */
const TOP = 12;

export class RoutingPanel {
  readonly panel: Panel;
  private readonly map: ExpertMap;
  private readonly most = el("span", "", {}, NONE);

  constructor(
    private readonly state: RunState,
    private readonly focus: Focus,
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
    const label = "How often each expert was chosen, by layer and expert";
    this.map = new ExpertMap(state, this.panel, label, focus, signal);
  }

  draw(input: DrawInput): void {
    const { counts, maxCount } = input.experts;
    this.map.setStates(input.experts);
    setText(this.most, maxCount ? integer(maxCount) : NONE);
    if (this.panel.drawn) {
      levelsOf(counts, maxCount, this.map.levels);
      this.map.draw(input.theme, cividisOf(input.theme), input.chosen);
    }
    this.panel.setSubtitle("times chosen");
    this.panel.setNote(this.map.note);
    this.panel.setReadout(this.readout(input), this.focus.any);
  }

  private readout(input: DrawInput): string {
    const { state, focus } = this;
    const { counts, layerTotals } = input.experts;
    if (!state.seq) return "";
    const { cell, step } = focus;
    if (cell && cell.layer < state.layers && (cell.expert ?? 0) < state.experts) {
      const { layer, expert } = cell;
      const total = layerTotals[layer] || 1;
      if (expert === null) {
        const row = counts.subarray(layer * state.experts, (layer + 1) * state.experts);
        const chosen = row.reduce((n, count) => n + (count > 0 ? 1 : 0), 0);
        const choices = plural(layerTotals[layer], "choice");
        return `layer ${layer} · ${some(chosen, row.length)} · ${choices}`;
      }
      const times = counts[layer * state.experts + expert];
      const share = percent(times, total);
      return `layer ${layer} · expert ${expert} · ${plural(times, "time")} (${share} of the layer)`;
    }
    if (step !== null && input.chosen?.length) {
      return `${input.name(step)} · its ${integer(input.chosen.length)} choices are ringed, misses filled`;
    }
    return `${some(input.experts.chosenCount, counts.length)} so far`;
  }

  private table(): Table {
    const { counts, layerTotals } = this.map.states;
    const { experts } = this.state;
    const order = Array.from(counts.keys()).sort((a, b) => counts[b] - counts[a]);
    const rows = order.slice(0, TOP).map((at) => {
      const layer = Math.floor(at / experts);
      const share = percent(counts[at], layerTotals[layer]);
      return [String(layer), String(at % experts), integer(counts[at]), share];
    });
    const caption = `The ${TOP} experts chosen most often`;
    return { caption, head: ["Layer", "Expert", "Times", "Share of layer"], rows };
  }
}

/** "12 of 128 experts chosen". */
function some(chosen: number, all: number): string {
  return `${integer(chosen)} of ${plural(all, "expert")} chosen`;
}

/** Write the level of each count to `out`: 1 to 255 by the square root of the count; 0 stays 0. */
export function levelsOf(counts: Uint32Array, most: number, out: Uint8Array): void {
  // Almost all counts are small, so each small count's level is computed once.
  const known = new Uint8Array(Math.min(most, 4095) + 1);
  const level = (count: number) =>
    1 + Math.round(254 * Math.sqrt((count - 1) / Math.max(1, most - 1)));
  for (let count = 1; count < known.length; count += 1) known[count] = level(count);
  for (let i = 0; i < counts.length; i += 1) {
    const count = counts[i];
    out[i] = count < known.length ? known[count] : level(count);
  }
}
