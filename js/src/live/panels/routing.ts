// Panel: how often each expert was chosen, by all tokens or by those chosen in the text.

import { cividisOf, stopsOn } from "../../charts/colours";
import type { Focus } from "../../charts/focus";
import { el, setText } from "../../widget/dom";
import { integer, NONE, percent, plural } from "../../widget/format";
import { same } from "../../widget/same";
import { type ChosenCounts, countsOf } from "../chosen-tokens";
import type { DrawInput } from "../draw-input";
import type { ExpertStates, RunState } from "../state";
import { ExpertMap } from "./expert-map";
import { legendItem, Panel, type Table } from "./panel";

/** Experts in the table. */
const TOP = 12;
const PROMPT_TOO = ", prompt included";

type Counts = Pick<ExpertStates, "counts" | "layerTotals" | "maxCount" | "chosenCount">;

export class RoutingPanel {
  readonly panel: Panel;
  readonly #map: ExpertMap;
  readonly #most = el("span", "", {}, NONE);
  readonly #ramp = el("span", "oj-ramp", { "aria-hidden": "true" });
  readonly #all = el("button", "oj-button oj-all-tokens", { type: "button" }, "All tokens");
  /** What the map shows. */
  #counts: Counts;
  /** The counts of the chosen tokens, and what they were counted from. */
  #ofChosen: ChosenCounts | null = null;
  #countedFrom: readonly unknown[] = [];

  constructor(
    private readonly state: RunState,
    private readonly focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const scale = el("span", "oj-legend-item", {}, "1", this.#ramp, this.#most, "times (√)");
    this.#counts = state;
    this.#all.addEventListener("click", () => focus.choose([]), { signal });
    const items = [legendItem("empty", "never"), scale, this.#all];
    const legend = el("span", "oj-legend-row", {}, ...items);
    this.panel = new Panel(
      "Routing frequency",
      "routing",
      legend,
      () => this.#table(),
      changed,
      signal,
    );
    const label = "How often each expert was chosen, by layer and expert";
    this.#map = new ExpertMap(state, this.panel, label, focus, signal);
  }

  draw(input: DrawInput): void {
    const { chosen } = this.focus;
    const ofChosen = this.#countChosen(chosen);
    this.#counts = ofChosen ?? input.experts;
    const { counts, maxCount } = this.#counts;
    this.#map.setStates(input.experts);
    setText(this.#most, maxCount ? integer(maxCount) : NONE);
    if (this.panel.drawn) {
      const stops = stopsOn(input.theme).map((rgb) => `rgb(${rgb})`);
      this.#ramp.style.background = `linear-gradient(to right, ${stops})`;
      levelsOf(counts, maxCount, this.#map.levels);
      // Rings of the playhead's token would hide the counts of a few tokens.
      const ringed = ofChosen && !this.focus.stepHovered ? undefined : input.chosen;
      this.#map.draw(input.theme, cividisOf(input.theme), ringed);
    }
    this.#all.hidden = !ofChosen;
    const of = plural(chosen.length, "chosen token");
    this.panel.setSubtitle(ofChosen ? `of ${of}` : "");
    this.panel.setNote(this.#map.note);
    this.panel.setReadout(this.#readout(input, ofChosen), this.focus.any);
  }

  /** The counts of the chosen tokens; null if none are chosen. */
  #countChosen(chosen: readonly number[]): ChosenCounts | null {
    const { state } = this;
    const from = [chosen, state.epoch, state.layers, state.routing.first, state.routing.end];
    if (!same(from, this.#countedFrom)) {
      this.#countedFrom = from;
      this.#ofChosen = chosen.length ? countsOf(state, chosen) : null;
    }
    return this.#ofChosen;
  }

  #readout(input: DrawInput, ofChosen: ChosenCounts | null): string {
    const { state, focus } = this;
    const { counts, layerTotals } = this.#counts;
    if (!state.seq) return "";
    const { cell } = focus;
    if (cell && cell.layer < state.layers && (cell.expert ?? 0) < state.experts) {
      const { layer, expert } = cell;
      const total = layerTotals[layer] || 1;
      const withPrompt = ofChosen ? "" : PROMPT_TOO;
      if (expert === null) {
        const row = counts.subarray(layer * state.experts, (layer + 1) * state.experts);
        const chosen = row.reduce((n, count) => n + (count > 0 ? 1 : 0), 0);
        const choices = plural(layerTotals[layer], "choice");
        return `layer ${layer} · ${some(chosen, row.length)} · ${choices}${withPrompt}`;
      }
      const times = counts[layer * state.experts + expert];
      const share = percent(times, total);
      const count = ofChosen
        ? `${integer(times)} of ${plural(ofChosen.known, "chosen token")}`
        : `${plural(times, "time")} so far${withPrompt} (${share} of the layer)`;
      return `layer ${layer} · expert ${expert} · ${count}`;
    }
    if (ofChosen && !focus.stepHovered) return sharing(ofChosen, focus.chosen.length);
    if (input.step !== null && input.chosen?.length) {
      return `${input.name(input.step)} · its ${integer(input.chosen.length)} choices: ○ hits, ◇ misses`;
    }
    return `${some(input.experts.chosenCount, counts.length)} so far${PROMPT_TOO}`;
  }

  #table(): Table {
    const { counts, layerTotals } = this.#counts;
    const { experts } = this.state;
    const order = Array.from(counts.keys()).sort((a, b) => counts[b] - counts[a]);
    const rows = order.slice(0, TOP).map((at) => {
      const layer = Math.floor(at / experts);
      const share = percent(counts[at], layerTotals[layer]);
      return [String(layer), String(at % experts), integer(counts[at]), share];
    });
    const by = this.#ofChosen ? ", by the chosen tokens" : PROMPT_TOO;
    const caption = `The ${TOP} experts chosen most often${by}`;
    return { caption, head: ["Layer", "Expert", "Times", "Share of layer"], rows };
  }
}

/** "5 chosen tokens share 12 of 87 experts". */
function sharing({ chosenCount, shared, known }: ChosenCounts, tokens: number): string {
  const kept = known < tokens ? ` (routing kept of ${integer(known)})` : "";
  const experts = plural(chosenCount, "expert");
  const what = known > 1 ? `share ${integer(shared)} of ${experts}` : `chose ${experts}`;
  return `${plural(tokens, "chosen token")}${kept} ${what}`;
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
