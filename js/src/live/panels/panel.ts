// The frame around a plot: title, legend, a readout in words, and a table that can replace the
// plot.

import { el, setText, setTitle } from "../../widget/dom";

export interface Table {
  caption: string;
  head: string[];
  rows: string[][];
}

/** Milliseconds between two updates of a table. */
const EVERY_MS = 500;

/** How many panels were made: each summary has an id of its own. */
let panels = 0;

export class Panel {
  readonly node: HTMLElement;
  readonly plots: HTMLElement;
  readonly #subtitle = el("span", "oj-subtitle");
  readonly #readout = el("div", "oj-readout", { "aria-live": "off" });
  readonly #note = el("span", "oj-legend-item oj-legend-note");
  readonly #hint = el("div", "oj-panel-hint");
  readonly #tableBox = el("div", "oj-table", { tabindex: "0" });
  readonly #toggle: HTMLButtonElement;
  #builtAt = 0;
  #later: ReturnType<typeof setTimeout> | undefined;
  readonly #summary = el("p", "oj-summary", { id: `oj-summary-${++panels}` });
  readonly #fold: HTMLButtonElement;
  tableOpen = false;
  folded = false;

  /** Whether the plots are shown. */
  get drawn(): boolean {
    return !this.tableOpen && !this.folded;
  }

  /** `table` is called only while it is shown; `changed` when the panel must be drawn. */
  constructor(
    title: string,
    name: string,
    legend: Node,
    private readonly table: () => Table,
    private readonly changed: () => void,
    signal: AbortSignal,
  ) {
    signal.addEventListener("abort", () => clearTimeout(this.#later));
    this.#fold = el("button", "oj-fold", { type: "button", "aria-expanded": "true" }, title);
    this.#fold.addEventListener(
      "click",
      () => {
        this.folded = !this.folded;
        this.#fold.setAttribute("aria-expanded", String(!this.folded));
        this.node.classList.toggle("oj-folded", this.folded);
        changed();
      },
      { signal },
    );
    this.#toggle = el(
      "button",
      "oj-button oj-as-table",
      { type: "button", "aria-pressed": "false" },
      "Table",
    );
    this.#toggle.setAttribute("aria-label", `${title}: show as a table`);
    this.#toggle.addEventListener(
      "click",
      () => {
        this.tableOpen = !this.tableOpen;
        this.#builtAt = 0;
        this.#toggle.setAttribute("aria-pressed", String(this.tableOpen));
        this.#tableBox.hidden = !this.tableOpen;
        this.plots.hidden = this.tableOpen;
        changed();
      },
      { signal },
    );
    this.#tableBox.hidden = true;
    this.plots = el("div", "oj-plots", {}, this.#hint);
    const head = el(
      "header",
      "oj-panel-head",
      {},
      el("h3", "", {}, this.#fold),
      this.#subtitle,
      this.#toggle,
    );
    this.node = el(
      "section",
      `oj-panel oj-${name}`,
      { "aria-label": title },
      head,
      el("div", "oj-legend", {}, legend, this.#note),
      this.plots,
      this.#tableBox,
      this.#readout,
      this.#summary,
    );
    this.node.setAttribute("aria-describedby", this.#summary.id);
  }

  /** Add a plot with its share of the height; the elements `below` lie under it. */
  add(plot: HTMLElement, share: number, ...below: HTMLElement[]): void {
    const box = el("div", "oj-plot", {}, plot, ...below);
    if (plot.matches("canvas")) plot.setAttribute("aria-describedby", this.#summary.id);
    box.style.flexGrow = String(share);
    this.plots.append(box);
  }

  /** Add buttons to the head, before that of the table. */
  addTools(tools: HTMLElement): void {
    this.#toggle.before(tools);
  }

  /** Set the sentence that describes the panel to those who do not see it. */
  setSummary(text: string): void {
    setText(this.#summary, text);
  }

  /** Show a hint in place of the plots; "" shows the plots. */
  setHint(text: string): void {
    setText(this.#hint, text);
    this.#hint.hidden = !text;
    this.node.classList.toggle("oj-empty", !!text);
  }

  setSubtitle(text: string): void {
    setText(this.#subtitle, text);
    setTitle(this.#subtitle, text);
  }

  /** Show a note on how to read the plot, at the end of the legend; "" for none. */
  setNote(text: string): void {
    setText(this.#note, text);
    this.#note.hidden = !text;
  }

  /**
   * Describe the plot in words; the tooltip has all of them where the panel is narrow, and `more`.
   * Screen readers read it only if `selected`: it changes with each token.
   */
  setReadout(text: string, selected: boolean, more = ""): void {
    const live = selected ? "polite" : "off";
    if (this.#readout.getAttribute("aria-live") !== live) {
      this.#readout.setAttribute("aria-live", live);
    }
    setText(this.#readout, text);
    setTitle(this.#readout, text + more);
  }

  /** Update the table, but not often, because it has many elements. */
  drawTable(now: number): void {
    if (!this.tableOpen || this.folded) return;
    clearTimeout(this.#later);
    if (now - this.#builtAt < EVERY_MS) {
      this.#later = setTimeout(this.changed, EVERY_MS); // the last change is shown
      return;
    }
    this.#builtAt = now;
    const { caption, head, rows } = this.table();
    const cells = (tag: "th" | "td", row: string[]) => row.map((text) => el(tag, "", {}, text));
    this.#tableBox.replaceChildren(
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

/** A swatch and its name. `style` selects the swatch's class. */
export function legendItem(style: string, name: string): HTMLElement {
  const swatch = el("span", `oj-swatch oj-swatch-${style}`, { "aria-hidden": "true" });
  return el("span", "oj-legend-item", {}, swatch, name);
}
