// Panel: where the time of each token went, as stacked bars. Python reports the parts and their
// times; nothing is computed here.

import { Bars } from "../../charts/bars";
import type { Focus } from "../../charts/focus";
import { el } from "../../widget/dom";
import { ms, percent, short } from "../../widget/format";
import type { DrawInput } from "../draw-input";
import type { Part } from "../info";
import type { RunState } from "../state";
import { colourOf, roleOf } from "../time-parts";
import { AxisTools } from "./axis-tools";
import { legendItem, Panel, type Table } from "./panel";
import { tokenTable } from "./token-table";

/** The part that is hatched, and always in the readout. */
const WAIT = "read_wait";

/** A part that never takes this much, in ms, is not in the legend. */
const LEAST_MS = 0.0005;

export class TimePanel {
  readonly panel: Panel;
  readonly #bars: Bars;
  readonly #tools: AxisTools;
  readonly #legend = el("span", "oj-legend-row", {});
  #listed = "";
  #input!: DrawInput;

  /** `allParts` returns the parts that Python named. */
  constructor(
    private readonly allParts: () => readonly Part[],
    private readonly state: RunState,
    focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const table = () => this.#table();
    this.panel = new Panel("Time", "time", this.#legend, table, changed, signal);
    this.#tools = new AxisTools("Time", focus.zoom, changed, signal);
    this.panel.addTools(this.#tools.node);
    this.#bars = new Bars("Time of each token by part, stacked", focus, signal);
    this.panel.add(this.#bars.plot.canvas.node, 1);
  }

  draw(input: DrawInput): void {
    const { shown, theme, users: highlighted, version } = input;
    this.#input = input;
    this.panel.setSubtitle("ms of each token, by part");
    this.panel.setReadout(this.#readout(input.step), input.step !== null);
    this.#tools.draw();
    if (!this.panel.drawn) return;
    const { log } = this.#tools;
    const stack = this.allParts().map((part) => ({
      part,
      values: this.state.steps.part(part.column, shown.from, shown.to),
    }));
    const some = stack.filter(({ values }) => values.some((ms) => ms >= LEAST_MS));
    const listed = some.length ? some : stack;
    this.#list(listed.map(({ part }) => part));
    const parts = listed.map(({ part, values }) => ({
      values,
      colour: colourOf(part, theme),
      hatched: part.key === WAIT,
    }));
    this.#bars.draw({ shown, parts, title: "ms", log, highlighted, version }, theme);
    const notes = [this.#bars.note("the slowest"), log ? "parts: shares of the bar" : ""];
    this.panel.setNote(notes.filter(Boolean).join("; "));
  }

  /** Name the parts in the legend. */
  #list(parts: readonly Part[]): void {
    const listed = JSON.stringify(parts);
    if (listed === this.#listed) return;
    this.#listed = listed;
    const items = parts.map((part) => {
      const item = legendItem(roleOf(part), part.name);
      item.title = part.means;
      return item;
    });
    this.#legend.replaceChildren(...items);
  }

  #readout(shown: number | null): string {
    const { state } = this;
    const step = shown ?? (state.steps.length ? state.steps.end - 1 : null);
    if (step === null) return "";
    const total = state.steps.at("tokenMs", step);
    if (Number.isNaN(total)) return "";
    const texts = [this.#input.name(step), ms(total)];
    const parts = this.allParts().map((part) => [part, this.#of(part, step)] as const);
    const most = parts.reduce((a, b) => (b[1] > a[1] || Number.isNaN(a[1]) ? b : a), parts[0]);
    if (most) texts.push(`${most[0].name} ${short(most[1])} (${percent(most[1], total)})`);
    const wait = parts.find(([part]) => part.key === WAIT);
    if (wait && wait !== most) texts.push(`${wait[0].name} ${short(wait[1])}`);
    return texts.join(" · ");
  }

  /** The time of a part in a step, in ms; NaN if not known. */
  #of({ column }: Part, step: number): number {
    return this.state.steps.part(column, step, step + 1)[0] ?? Number.NaN;
  }

  #table(): Table {
    const { steps } = this.state;
    const parts = this.allParts();
    const row = (step: number) => {
      const times = parts.map((part) => short(this.#of(part, step)));
      return [short(steps.at("tokenMs", step)), ...times];
    };
    const head = ["ms", ...parts.map((part) => part.name)];
    return tokenTable(this.state, this.#input, head, row);
  }
}
