// Panel: where the time of each token went, as one stacked bar a token.

import { Bars } from "./bars";
import { el } from "./dom";
import type { Focus } from "./focus";
import { ms, NONE, percent, short } from "./format";
import type { StepColumns } from "./frames";
import type { Look } from "./look";
import { legendItem, Panel, type Table } from "./panel";
import type { RunState } from "./state";
import type { Role } from "./theme";

const LAST = 20;

interface Part {
  name: string;
  look: Role;
  column: keyof StepColumns | null;
  means: string;
}

/** From the bottom up, in the order in which they happen. */
const PARTS: readonly Part[] = [
  {
    ...{ name: "route", look: "route", column: "routeMs" },
    means: "until the routers’ choices are known: attention, and the experts of the layer before",
  },
  { name: "look-up", look: "lookup", column: "lookupMs", means: "who is in RAM, who leaves" },
  { name: "read wait", look: "miss", column: "waitMs", means: "waiting for the SSD" },
  { name: "install", look: "install", column: "installMs", means: "booking what was read" },
  {
    ...{ name: "sample", look: "sample", column: "sampleMs" },
    means: "the last layer’s experts, the output head and the sampler",
  },
  { name: "other", look: "other", column: null, means: "Python" },
];

export class TimePanel {
  readonly panel: Panel;
  private readonly bars: Bars;
  private name = (step: number): string => String(step);

  constructor(
    private readonly state: RunState,
    private readonly focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const items = PARTS.map((part) => {
      const item = legendItem(part.look, part.name);
      item.title = part.means;
      return item;
    });
    const legend = el("span", "oj-legend-row", {}, ...items);
    this.panel = new Panel("Time", "time", legend, () => this.table(), changed, signal);
    this.bars = new Bars("Time of each token by part, stacked", focus, signal);
    this.panel.add(this.bars.plot.canvas.node, 1);
  }

  draw(look: Look): void {
    const { shown, theme, lit } = look;
    this.name = look.name;
    this.panel.setAside("ms of each token, by part");
    this.panel.setReadout(this.readout(shown.until), this.focus.step !== null);
    if (!this.panel.drawn) return;
    const parts = PARTS.map((part) => ({
      values: this.values(part, shown.from, shown.to),
      colour: theme[part.look],
      hatched: part.column === "waitMs",
    }));
    this.bars.draw({ shown, parts, title: "ms", lit }, theme);
    this.panel.setNote(this.bars.note);
  }

  /** The times of one part over steps [from, to); what no part claims is Python. */
  private values(part: Part, from: number, to: number): ArrayLike<number> {
    const { steps } = this.state;
    if (part.column) return steps.column(part.column, from, to);
    const rest = Float64Array.from(steps.column("tokenMs", from, to));
    for (const { column } of PARTS) {
      if (!column) continue;
      const taken = steps.column(column, from, to);
      for (let i = 0; i < rest.length; i += 1) rest[i] -= taken[i];
    }
    return rest.map((value) => Math.max(0, value));
  }

  private readout(until: number | null): string {
    const { state, focus } = this;
    const step = focus.step ?? until ?? (state.steps.length ? state.steps.end - 1 : null);
    if (step === null) return "";
    const total = state.steps.at("tokenMs", step);
    if (Number.isNaN(total)) return "";
    const [most, spent] = PARTS.map((part) => [part.name, this.of(part, step)] as const).reduce(
      (a, b) => (b[1] > a[1] ? b : a),
    );
    const wait = this.of(PARTS[2], step);
    const words = [
      this.name(step),
      ms(total),
      `${most} ${short(spent)} (${percent(spent, total)})`,
    ];
    if (most !== "read wait") words.push(`read wait ${short(wait)}`);
    return words.join(" · ");
  }

  private of(part: Part, step: number): number {
    return this.values(part, step, step + 1)[0] ?? Number.NaN;
  }

  private table(): Table {
    const { steps } = this.state;
    const rows: string[][] = [];
    for (let step = steps.end - 1; step >= Math.max(steps.first, steps.end - LAST); step -= 1) {
      const times = PARTS.map((part) => short(this.of(part, step)) || NONE);
      rows.push([this.name(step), short(steps.at("tokenMs", step)), ...times]);
    }
    const head = ["Token", "ms", ...PARTS.map((part) => part.name)];
    return { caption: `The last ${LAST} tokens, newest first`, head, rows };
  }
}
