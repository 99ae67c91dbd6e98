// Panel: how long the reads of each token took, and how many bytes were read.

import { Bars } from "../../charts/bars";
import type { Focus } from "../../charts/focus";
import { Lines } from "../../charts/lines";
import { el } from "../../widget/dom";
import { byteScale, bytes, integer, ms, plural, short } from "../../widget/format";
import type { DrawInput } from "../draw-input";
import type { RunState } from "../state";
import { AxisTools } from "./axis-tools";
import { legendItem, Panel, type Table } from "./panel";
import { tokenTable } from "./token-table";

/** The lines, from the lowest up. They differ by their dashes as well as by their colours. */
const QUANTILES = [
  { column: "p50", role: "p50", width: 1.75, dash: [], shared: "median" },
  { column: "p95", role: "p95", width: 1.5, dash: [5, 3], shared: "median" },
  { column: "max", role: "top", width: 1, dash: [1.5, 2.5], shared: "highest" },
] as const;

export class LatencyPanel {
  readonly panel: Panel;
  readonly #lines: Lines;
  readonly #bars: Bars;
  readonly #tools: AxisTools;
  #input!: DrawInput;

  constructor(
    private readonly state: RunState,
    focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const legend = el(
      "span",
      "oj-legend-row",
      {},
      legendItem("p50", "p50"),
      legendItem("p95", "p95"),
      legendItem("top", "max"),
      legendItem("read", "bytes read"),
    );
    const table = () => this.#table();
    this.panel = new Panel("Read latency", "latency", legend, table, changed, signal);
    this.#tools = new AxisTools("Read latency", focus.zoom, changed, signal);
    this.panel.addTools(this.#tools.node);
    const label = "Read latency of each token: median, 95th percentile and maximum";
    this.#lines = new Lines(label, focus, signal);
    this.#bars = new Bars("Bytes read for each token", focus, signal);
    this.panel.add(this.#lines.plot.canvas.node, 3);
    this.panel.add(this.#bars.plot.canvas.node, 2);
  }

  draw(input: DrawInput): void {
    const { shown, theme, users: highlighted, version } = input;
    this.#input = input;
    this.panel.setSubtitle("ms per read");
    const { steps } = this.state;
    this.panel.setReadout(this.#readout(input.step), input.step !== null);
    this.#tools.draw();
    if (!this.panel.drawn) return;
    const { log } = this.#tools;
    const common = { shown, log, highlighted, version };
    const lines = QUANTILES.map(({ column, role, ...line }) => {
      return { ...line, values: steps.column(column, shown.from, shown.to), colour: theme[role] };
    });
    this.#lines.draw({ ...common, lines, title: "ms" }, theme);
    const values = steps.column("nbytes", shown.from, shown.to);
    const parts = [{ values, colour: theme.read }];
    this.#bars.draw({ ...common, parts, title: "bytes", units: byteScale }, theme);
    const notes = [this.#lines.plot.overflow, this.#bars.note("the most")];
    this.panel.setNote(notes.filter(Boolean).join("; "));
  }

  /** The numbers of the selected token, or of the last one. */
  #readout(shown: number | null): string {
    const { steps } = this.state;
    const step = shown ?? (steps.length ? steps.end - 1 : null);
    return step === null ? "" : this.#describe(step);
  }

  #describe(step: number): string {
    const { steps } = this.state;
    const reads = steps.at("reads", step);
    if (Number.isNaN(reads)) return "";
    const name = this.#input.name(step);
    if (reads === 0) return `${name} · no reads`;
    const [p50, p95, max] = (["p50", "p95", "max"] as const).map((c) => short(steps.at(c, step)));
    const quantiles = `p50 ${p50} · p95 ${p95} · max ${max}\u202fms`;
    return `${name} · ${quantiles} · ${plural(reads, "read")}, ${bytes(steps.at("nbytes", step))}`;
  }

  #table(): Table {
    const { steps } = this.state;
    const row = (step: number) => {
      const quantiles = (["p50", "p95", "max"] as const).map((c) => ms(steps.at(c, step)));
      const reads = integer(steps.at("reads", step));
      const spent = ms(steps.at("tokenMs", step));
      return [spent, reads, ...quantiles, bytes(steps.at("nbytes", step))];
    };
    const head = ["Time", "Reads", "p50", "p95", "max", "Bytes"];
    return tokenTable(this.state, this.#input, head, row);
  }
}
