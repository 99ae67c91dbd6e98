// Panel: which experts are in RAM, which leave next, and how many lookups of each token hit.
//
// It has two forms: a map of all experts at one moment, and bands, which show when each expert of
// one layer came, was used and left.

import { Bands } from "../../charts/bands";
import { Bars } from "../../charts/bars";
import type { Cells } from "../../charts/bitmap";
import type { Focus } from "../../charts/focus";
import type { Chosen, Moved } from "../../charts/marks";
import { el, setText, setTitle } from "../../widget/dom";
import { integer, plural } from "../../widget/format";
import { same } from "../../widget/same";
import type { Theme } from "../../widget/theme";
import type { DrawInput } from "../draw-input";
import { NO_EXPERT } from "../frames";
import { LayerBands } from "../layer-bands";
import { LayerMisses } from "../layer-misses";
import { RECENT_STEPS } from "../limits";
import { Places, type Scale } from "../places";
import { recentMoves } from "../recent-moves";
import type { RunState } from "../state";
import type { RunStore } from "../store";
import { ExpertMap } from "./expert-map";
import { legendItem, Panel } from "./panel";
import { residencyColours, stopsOf } from "./residency-levels";
import {
  aboutExpert,
  aboutLayer,
  aboutToken,
  bandTable,
  layerTable,
  nextAfter,
  type Shown,
} from "./residency-words";

/** The ends of the scale, and what it is called. */
const SCALES: Record<Scale, readonly [string, string, string]> = {
  exact: ["stays longest", "next out", "The eviction order of the run's own policy"],
  relearned: [
    "stays longest",
    "next out",
    "The eviction order of the run's policy, without what earlier runs had taught it",
  ],
  unknown: [
    "just used",
    "long unused",
    "The policy has no eviction order between two tokens: coloured by tokens since the last use",
  ],
  recency: [
    "just used",
    "long unused",
    "Coloured by tokens since the last use, until the eviction order is known",
  ],
};

export class ResidencyPanel {
  readonly panel: Panel;
  readonly #state: RunState;
  readonly #map: ExpertMap;
  readonly #bars: Bars;
  readonly #bands: Bands;
  readonly #spans: LayerBands;
  readonly #misses: LayerMisses;
  readonly #places: Places;
  readonly #ramp = el("span", "oj-ramp", { "aria-hidden": "true" });
  readonly #ends = [el("span", ""), el("span", "")] as const;
  readonly #nextMark = legendItem("next", "");
  readonly #scale: HTMLElement;
  readonly #forms: readonly HTMLButtonElement[];
  readonly #layers = el("select", "oj-button", { "aria-label": "Layer of the bands" });
  readonly #mapOnly: HTMLElement[];
  readonly #bandsOnly: HTMLElement[];
  #asBands = false;
  /** The marks drawn last, and what they were made from. */
  #marks: { moved: Moved[]; chosen: Chosen[] } = { moved: [], chosen: [] };
  #markedFrom: readonly unknown[] = [];
  #shown: Shown | null = null;

  constructor(
    private readonly store: RunStore,
    private readonly focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const state = store.state;
    this.#state = state;
    this.#places = new Places(state);
    this.#spans = new LayerBands(state);
    this.#misses = new LayerMisses(state);
    const scale = [this.#ends[0], this.#ramp, this.#nextMark, this.#ends[1]];
    this.#scale = el("span", "oj-legend-item", {}, ...scale);
    const [hit, miss] = [legendItem("ring", "hit"), legendItem("diamond", "miss")];
    hit.prepend(legendItem("hit", "").firstChild!); // of the bars below the map
    miss.prepend(legendItem("miss", "").firstChild!);
    this.#mapOnly = [this.#scale, legendItem("empty", "on SSD"), hit, miss];
    this.#bandsOnly = [this.#layers, legendItem("band", "in RAM"), legendItem("dot", "used")];
    const [arrived, evicted] = [legendItem("dot", "arrived"), legendItem("cross", "evicted")];
    evicted.append(el("span", "oj-if-wide", {}, "(paler: earlier)"));
    this.#mapOnly.push(arrived);
    arrived.title = evicted.title = `On the map it fades over ${RECENT_STEPS} tokens`;
    this.#bandsOnly.push(legendItem("wedge", "arrived"));
    const items = [...this.#mapOnly, ...this.#bandsOnly, evicted];
    const legend = el("span", "oj-legend-row", {}, ...items);
    const table = () =>
      this.#asBands ? bandTable(this.#shown!, this.#spans) : layerTable(this.#shown!);
    this.panel = new Panel("Residency", "residency", legend, table, changed, signal);
    this.#forms = ["Map", "Bands"].map((name, n) => {
      const button = el("button", "oj-button", { type: "button" }, name);
      const choose = () => {
        this.#choose(n === 1);
        changed();
      };
      button.addEventListener("click", choose, { signal });
      return button;
    });
    const about = { role: "group", "aria-label": "Form of the residency plot" };
    this.panel.addTools(el("span", "oj-forms", about, ...this.#forms));
    this.#layers.addEventListener("change", changed, { signal });
    const label = "Which experts are in RAM, by layer and expert";
    this.#map = new ExpertMap(state, this.panel, label, focus, signal, 3);
    this.#bars = new Bars("Hits and misses of each token, stacked", focus, signal);
    this.panel.add(this.#bars.plot.canvas.node, 2);
    this.#bands = new Bands("When each expert of a layer was in RAM, and used", focus, signal);
    this.panel.add(this.#bands.canvas.node, 1);
    this.#choose(false);
  }

  draw(input: DrawInput): void {
    const state = this.#state,
      places = this.#places;
    const step = input.step ?? state.steps.end - 1;
    const experts = input.expertsThen ?? input.experts;
    const order = this.store.orderAfter(input.step);
    const changed = places.find(experts, step, order);
    const { info } = this.store;
    this.#shown = { state, experts, step, places, misses: this.#misses, input, info };
    if (this.panel.drawn && state.seq) {
      this.#drawLegend(input);
      if (this.#asBands) this.#drawBands(input);
      else this.#drawMap(input, changed);
    }
    this.panel.setReadout(this.#readout(this.#shown), this.focus.any, nextAfter(this.#shown));
    const count = `${integer(experts.residentCount)} of ${plural(state.slots, "slot")}`;
    const lost = input.expertsThen ? "" : " · now: that token's are no longer kept";
    this.panel.setSubtitle(state.seq ? count + lost : "");
    this.panel.setNote(this.#note);
  }

  /** The cells of all experts, as the map shows them. */
  cells(theme: Theme): Cells {
    const { layers, experts } = this.#state;
    return { layers, experts, levels: this.#places.levels, colours: residencyColours(theme) };
  }

  #choose(bands: boolean): void {
    this.#asBands = bands;
    this.#forms.forEach((form, n) => {
      form.setAttribute("aria-pressed", String(bands === (n === 1)));
    });
    const boxOf = (canvas: HTMLElement) => canvas.parentElement!;
    const maps = [this.#map.heatmap.canvas.node, this.#bars.plot.canvas.node].map(boxOf);
    for (const node of [...this.#mapOnly, ...maps]) node.hidden = bands;
    for (const node of [...this.#bandsOnly, boxOf(this.#bands.canvas.node)]) node.hidden = !bands;
  }

  #drawMap(input: DrawInput, changed: boolean): void {
    const map = this.#map,
      places = this.#places,
      state = this.#state;
    const { theme, shown, users: highlighted } = input;
    map.setStates(this.#shown!.experts);
    if (changed || map.levels.length !== places.levels.length) map.levels = places.levels;
    const { moved, chosen } = this.#findMarks(input);
    map.draw(theme, residencyColours(theme), chosen, moved, places.next[0]);
    const column = (name: "hits" | "misses") => state.steps.column(name, shown.from, shown.to);
    const parts = [
      { values: column("hits"), colour: theme.hit },
      { values: column("misses"), colour: theme.miss, hatched: true },
    ];
    const { version } = input;
    const stack = { shown, parts, by: parts[1].values, title: "lookups", highlighted, version };
    this.#bars.draw(stack, theme);
  }

  /** The hits and misses of the token shown, and what moved with it and shortly before. */
  #findMarks(input: DrawInput): { moved: Moved[]; chosen: Chosen[] } {
    const state = this.#state,
      shown = this.#shown;
    const step = input.expertsThen ? shown!.step : state.steps.end - 1;
    const from = [state.epoch, state.seq, step];
    if (same(from, this.#markedFrom)) return this.#marks;
    this.#markedFrom = from;
    const chosen: Chosen[] = [];
    const missed = new Set<number>();
    state.routing.forEach(step, state.experts, (index, hit) => {
      chosen.push({ index, hit });
      if (!hit) missed.add(index);
    });
    // A miss has arrived: one mark says both.
    const moved = recentMoves(state.moves, step).filter(
      (each) => !(each.arrived && each.age === 0 && missed.has(each.index)),
    );
    this.#marks = { moved, chosen };
    return this.#marks;
  }

  #drawBands(input: DrawInput): void {
    const spans = this.#spans,
      state = this.#state;
    const { shown, theme } = input;
    const layer = this.#layerShown();
    const changed = spans.find(layer);
    const { from, to } = shown;
    const uses = (each: (expert: number, step: number, hit: boolean) => void) => {
      for (let step = from; step < Math.min(to, state.routing.end); step += 1) {
        state.routing.chosen(step, layer).forEach((expert, j) => {
          if (expert !== NO_EXPERT) each(expert, step, state.routing.hit(step, layer, j));
        });
      }
    };
    const { experts, spans: bands } = spans;
    const content = { shown, layer, experts, bands, uses, end: state.steps.end };
    this.#bands.draw(content, theme, changed);
  }

  /** The layer chosen here, else that of the pinned expert, else the one with the most misses. */
  #layerShown(): number {
    const { focus } = this,
      layers = this.#layers,
      state = this.#state,
      misses = this.#misses;
    if (layers.options.length !== state.layers + 1) {
      const names = Array.from({ length: state.layers }, (_, n) => [String(n), `layer ${n}`]);
      const options = [["", ""], ...names].map(([value, name]) =>
        el("option", "", { value }, name),
      );
      layers.replaceChildren(...options);
    }
    const auto = focus.pinnedCell?.layer ?? misses.count(state.steps.end - 1).most;
    const why = focus.pinnedCell ? "pinned" : "most misses";
    setText(layers.options[0], `layer ${auto} (${why})`);
    return layers.value === "" ? auto : Number(layers.value);
  }

  #drawLegend({ theme }: DrawInput): void {
    const [stays, next, means] = SCALES[this.#places.scale];
    this.#ramp.style.background = `linear-gradient(to right, ${stopsOf(theme).join(",")})`;
    setText(this.#ends[0], stays);
    setText(this.#ends[1], next);
    setTitle(this.#scale, means);
    this.#nextMark.hidden = !this.#places.next.length;
  }

  get #note(): string {
    if (!this.#asBands) return this.#map.note;
    const bands = this.#bands,
      spans = this.#spans,
      state = this.#state;
    const many = bands.shared > 1 ? `, ${integer(bands.shared)} in a row` : "";
    const some = `${integer(spans.experts.length)} of ${plural(state.experts, "expert")}`;
    return `rows: the ${some} that were in RAM${many}`;
  }

  #readout(shown: Shown): string {
    const { state } = shown;
    const { cell } = this.focus;
    if (!state.seq) return "";
    if (!cell || cell.layer >= state.layers || (cell.expert ?? 0) >= state.experts) {
      return aboutToken(shown);
    }
    return cell.expert === null
      ? aboutLayer(shown, cell.layer)
      : aboutExpert(shown, cell.layer, cell.expert);
  }
}
