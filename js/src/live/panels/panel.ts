// The frame around a plot: title, legend, a line of read-out, and a table in its place on demand.

import { boxOf } from "../../charts/canvas";
import { el, setText } from "../../widget/dom";

export interface Table {
  caption: string;
  head: string[];
  rows: string[][];
}

export class Panel {
  readonly node: HTMLElement;
  readonly plots: HTMLElement;
  private readonly aside = el("span", "oj-aside");
  private readonly readout = el("div", "oj-readout", { "aria-live": "off" });
  private readonly note = el("span", "oj-legend-item oj-legend-note");
  private readonly hint = el("div", "oj-panel-hint");
  private readonly tableBox = el("div", "oj-table", { tabindex: "0" });
  private readonly toggle: HTMLButtonElement;
  private builtAt = 0;
  private readonly fold: HTMLButtonElement;
  tableOpen = false;
  folded = false;

  /** Whether its plots are in sight. */
  get drawn(): boolean {
    return !this.tableOpen && !this.folded;
  }

  /** `table` is asked for only while it is shown; `changed` when the panel wants to be drawn. */
  constructor(
    title: string,
    name: string,
    legend: Node,
    private readonly table: () => Table,
    changed: () => void,
    signal: AbortSignal,
  ) {
    this.fold = el("button", "oj-fold", { type: "button", "aria-expanded": "true" }, title);
    this.fold.addEventListener(
      "click",
      () => {
        this.folded = !this.folded;
        this.fold.setAttribute("aria-expanded", String(!this.folded));
        this.node.classList.toggle("oj-folded", this.folded);
        changed();
      },
      { signal },
    );
    this.toggle = el(
      "button",
      "oj-button oj-as-table",
      { type: "button", "aria-pressed": "false" },
      "Table",
    );
    this.toggle.setAttribute("aria-label", `${title}: show as a table`);
    this.toggle.addEventListener(
      "click",
      () => {
        this.tableOpen = !this.tableOpen;
        this.builtAt = 0;
        this.toggle.setAttribute("aria-pressed", String(this.tableOpen));
        this.tableBox.hidden = !this.tableOpen;
        this.plots.hidden = this.tableOpen;
        changed();
      },
      { signal },
    );
    this.tableBox.hidden = true;
    this.plots = el("div", "oj-plots", {}, this.hint);
    const head = el(
      "header",
      "oj-panel-head",
      {},
      el("h3", "", {}, this.fold),
      this.aside,
      this.toggle,
    );
    this.node = el(
      "section",
      `oj-panel oj-${name}`,
      { "aria-label": title },
      head,
      el("div", "oj-legend", {}, legend, this.note),
      this.plots,
      this.tableBox,
      this.readout,
    );
  }

  /** A plot's box, with its share of the height; what is below it in the plot comes after it. */
  add(plot: HTMLElement, share: number, ...below: HTMLElement[]): void {
    const box = el("div", "oj-plot", {}, plot, ...below);
    box.style.flexGrow = String(share);
    this.plots.append(box);
  }

  /** Of its plots, in CSS pixels. */
  get width(): number {
    return boxOf(this.plots).width;
  }

  /** A hint in the plots' place while there is nothing to plot; "" takes it away. */
  setHint(text: string): void {
    setText(this.hint, text);
    this.hint.hidden = !text;
    this.node.classList.toggle("oj-empty", !!text);
  }

  setAside(text: string): void {
    setText(this.aside, text);
  }

  /** What one must know to read the plot as it is now, at the legend's end; "" for nothing. */
  setNote(text: string): void {
    setText(this.note, text);
    this.note.hidden = !text;
  }

  /** What the plot says in words. Read out only while somebody `asked`: it changes with each token. */
  setReadout(text: string, asked: boolean): void {
    const live = asked ? "polite" : "off";
    if (this.readout.getAttribute("aria-live") !== live) {
      this.readout.setAttribute("aria-live", live);
    }
    setText(this.readout, text);
  }

  /** Bring the table up to date, at most twice a second: it is a lot of elements. */
  drawTable(now: number): void {
    if (!this.tableOpen || this.folded || now - this.builtAt < 500) return;
    this.builtAt = now;
    const { caption, head, rows } = this.table();
    const cells = (tag: "th" | "td", row: string[]) => row.map((text) => el(tag, "", {}, text));
    this.tableBox.replaceChildren(
      el(
        "table",
        "",
        {},
        el("caption", "", {}, caption),
        el("thead", "", {}, el("tr", "", {}, ...cells("th", head))),
        el("tbody", "", {}, ...rows.map((row) => el("tr", "", {}, ...cells("td", row)))),
      ),
    );
  }
}

/** A swatch and its name. `look` is the swatch's class. */
export function legendItem(look: string, name: string): HTMLElement {
  const swatch = el("span", `oj-swatch oj-swatch-${look}`, { "aria-hidden": "true" });
  return el("span", "oj-legend-item", {}, swatch, name);
}
