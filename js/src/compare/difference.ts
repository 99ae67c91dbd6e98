// Panel: where the routing of two runs differs, by the share of a layer's choices.

import { pack } from "../charts/colours";
import type { Focus } from "../charts/focus";
import { ExpertMap } from "../live/panels/expert-map";
import { Panel, type Table } from "../live/panels/panel";
import type { ExpertStates, RunState } from "../live/state";
import { el } from "../widget/dom";
import { percent } from "../widget/format";
import { parse, perTheme, type Theme } from "../widget/theme";

/** The level of experts that both runs chose equally often; below it A did more often, above B. */
const EQUAL = 128;

const LISTED = 20;

/** From A's colour over the surface to B's: PuOr's ends, which colour-blind readers tell apart. */
const ENDS = { light: ["#8a4b00", "#3d2a80"], dark: ["#f0a040", "#a08cf0"] } as const;

const divergingOf = perTheme((theme) => {
  const surface = parse(theme.surface);
  const dark = surface[0] + surface[1] + surface[2] < 330;
  const [a, b] = ENDS[dark ? "dark" : "light"].map(parse);
  const out = new Uint32Array(256);
  for (let level = 0; level < 256; level += 1) {
    const t = Math.min(1, Math.abs(level - EQUAL) / (EQUAL - 1));
    const end = level < EQUAL ? a : b;
    out[level] = pack(surface.slice(0, 3).map((from, i) => from + (end[i] - from) * t));
  }
  return out;
});

export class DifferencePanel {
  readonly panel: Panel;
  readonly #map: ExpertMap;
  /** The share of its layer's choices in B, less that in A. */
  #differences = new Float32Array(0);
  #most = 0;

  constructor(
    private readonly names: readonly [string, string],
    private readonly states: readonly [RunState, RunState],
    private readonly focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const item = (style: string, text: string) =>
      el("span", "oj-legend-item", {}, el("span", `oj-swatch oj-swatch-${style}`), text);
    const legend = el(
      "span",
      "oj-legend-row",
      {},
      item("more-a", `${names[0]} more often`),
      item("more-b", `${names[1]} more often`),
    );
    legend.title = "The difference of the shares that an expert has of its layer's choices";
    this.panel = new Panel(
      "Difference of routing",
      "difference",
      legend,
      () => this.#table(),
      changed,
      signal,
    );
    const between = `Difference of routing, ${names[0]} and ${names[1]}`;
    this.panel.node.setAttribute("aria-label", between);
    const label = `Which experts ${names[0]} or ${names[1]} chose more often, by layer and expert`;
    this.#map = new ExpertMap(states[0], this.panel, label, focus, signal);
  }

  /** Draw the difference of the experts of the two runs at the playhead. */
  draw(theme: Theme, a: ExpertStates, b: ExpertStates): void {
    const [one, other] = this.states;
    const alike = one.layers === other.layers && one.experts === other.experts;
    const known = alike && one.layers * one.experts > 0;
    this.panel.setHint(known ? "" : alike ? "nothing yet" : "The models differ in their experts.");
    if (!known) return;
    this.#compute(a, b);
    if (!this.panel.drawn) return;
    this.#map.setStates(a);
    const { levels } = this.#map;
    this.#differences.forEach((difference, index) => {
      levels[index] = EQUAL + Math.round((127 * difference) / (this.#most || 1));
    });
    this.#map.draw(theme, divergingOf(theme), undefined);
    this.panel.setNote(this.#map.note);
    this.panel.setSubtitle(`up to ${percent(this.#most)}`);
    this.panel.setReadout(this.#readout(), this.focus.cell !== null);
  }

  #compute(a: ExpertStates, b: ExpertStates): void {
    const { layers, experts } = this.states[0];
    if (this.#differences.length !== layers * experts) {
      this.#differences = new Float32Array(layers * experts);
    }
    this.#most = 0;
    for (let index = 0; index < layers * experts; index += 1) {
      const layer = Math.floor(index / experts);
      const share = (each: ExpertStates) =>
        each.counts[index] / Math.max(1, each.layerTotals[layer]);
      const difference = share(b) - share(a);
      this.#differences[index] = difference;
      this.#most = Math.max(this.#most, Math.abs(difference));
    }
  }

  #readout(): string {
    const { cell } = this.focus;
    if (cell === null || cell.expert === null) return `Largest: ${this.#largest(1)[0] ?? "none"}`;
    return this.#describe(cell.layer * this.states[0].experts + cell.expert);
  }

  #describe(index: number): string {
    const { experts } = this.states[0];
    const difference = this.#differences[index] ?? 0;
    const who = difference < 0 ? this.names[0] : this.names[1];
    const where = `layer ${Math.floor(index / experts)}, expert ${index % experts}`;
    if (!difference) return `${where}: equally often in both`;
    return `${where}: ${percent(Math.abs(difference))} of the layer's choices more in ${who}`;
  }

  #largest(count: number): string[] {
    return this.#ranked(count).map((index) => this.#describe(index));
  }

  /** The experts with the largest differences. */
  #ranked(count: number): number[] {
    const size = (index: number) => Math.abs(this.#differences[index]);
    return [...this.#differences.keys()]
      .filter((index) => size(index) > 0)
      .sort((i, j) => size(j) - size(i))
      .slice(0, count);
  }

  #table(): Table {
    const { experts } = this.states[0];
    const rows = this.#ranked(LISTED).map((index) => [
      ...[String(Math.floor(index / experts)), String(index % experts)],
      percent(Math.abs(this.#differences[index])),
      this.#differences[index] < 0 ? this.names[0] : this.names[1],
    ]);
    const caption = `The ${LISTED} largest differences`;
    return { caption, head: ["Layer", "Expert", "Share of choices", "More in"], rows };
  }
}
