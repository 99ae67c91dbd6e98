// Panel: the generated text. Each token is shaded by its share of misses.
//
// The text comes from the model, so it is inserted only as text. Each token is an element; text
// whose tokens are no longer known stands before them. Each paragraph is a block, so that for a new
// token the page lays out only the last paragraph.

import type { Focus } from "../../charts/focus";
import { el, setText } from "../../widget/dom";
import { bytes, integer, ms, plural } from "../../widget/format";
import type { DrawInput } from "../draw-input";
import type { Status } from "../info";
import { KEPT_STEPS } from "../limits";
import type { RunState } from "../state";
import { legendItem, Panel, type Table } from "./panel";

/** Tokens in the table. */
const LAST = 20;

/** A token gets the next shade and underline if its share of misses is above this. */
const SHADES = [0, 0.1, 0.3] as const;

export class TextPanel {
  readonly panel: Panel;
  private readonly log = el("div", "oj-log", { role: "log", tabindex: "0" });
  /** The text before the first known token, and after the last. */
  private readonly lead = document.createTextNode("");
  private readonly rest = document.createTextNode("");
  private readonly hint = el("span", "oj-text-hint");
  private readonly caret = el("span", "oj-caret", { "aria-hidden": "true" });
  private readonly prompt = el("div", "oj-prompt");
  /** The last paragraph. Text without a token yet, the caret and the hint stand at its end. */
  private paragraph: HTMLElement | null = null;
  private readonly tokens = new Map<number, HTMLElement>();
  private readonly stepOf = new WeakMap<Element, number>();
  /** The steps whose tokens have a class, by class. */
  private readonly marked = new Map<string, Set<number>>();
  /** The first step without a token element. */
  private next = 0;
  private epoch = -1;
  private length = 0;
  /** Whether the end of the text is in sight; then it stays in sight. */
  private following = true;
  private revealed: number | null = null;
  /** The steps [from, to) whose tokens are dimmed. */
  private dimmedFrom = 0;
  private dimmedTo = 0;
  /** The step shown last; null if the view followed the run. */
  private shown: number | null = null;
  private name = (step: number): string => String(step);

  constructor(
    private readonly state: RunState,
    private readonly focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    this.log.setAttribute("aria-label", "Generated text");
    this.log.append(this.lead);
    this.beginParagraph();
    const legend = el(
      "span",
      "oj-legend-row",
      {},
      el("span", "oj-legend-item", {}, "missed:"),
      legendItem("miss-0", "nothing"),
      legendItem("miss-1", "little"),
      legendItem("miss-2", "over 10\u202f%"),
      legendItem("miss-3", "over 30\u202f%"),
    );
    legend.title = "The share of lookups in a token's call whose expert was not in RAM";
    this.panel = new Panel("Text", "text", legend, () => this.table(), changed, signal);
    this.panel.add(el("div", "oj-text-body", {}, this.prompt, this.log), 1);
    this.listen(signal);
  }

  draw(input: DrawInput, status: Status, prompt: string): void {
    const { state } = this;
    this.name = input.name;
    setText(this.prompt, prompt);
    this.prompt.hidden = !prompt;
    const count = state.generated;
    this.panel.setSubtitle(count ? plural(count, "token") : "");
    const { at, step } = input;
    this.panel.setReadout(this.readout(input), step !== null);
    this.grow();
    this.dim(at);
    this.show(at);
    this.mark("oj-on", step === null ? [] : [step]);
    this.mark("oj-at", at === null ? [] : [at]);
    this.mark("oj-highlight", input.users ?? []);
    const followed = this.shown !== null && at === null;
    this.shown = at;
    if (followed) this.following = true; // the end is shown again
    this.caret.hidden = status !== "running" || !state.text || at !== null;
    setText(this.hint, state.text ? "" : hint(state, status));
    const longer = this.length !== state.text.length;
    if ((longer || followed) && this.following && at === null) this.toEnd();
    if (followed) requestAnimationFrame(() => this.toEnd()); // by then the heights are known
    this.length = state.text.length;
  }

  /** Keep the playhead's token in sight. */
  private show(at: number | null): void {
    if (at !== null && at !== this.revealed) {
      this.reveal(at);
      // The page guesses the heights of paragraphs out of sight, and knows them once they are in
      // sight.
      requestAnimationFrame(() => this.revealed === at && this.reveal(at));
    }
    this.revealed = at;
  }

  /** Dim the tokens after the playhead: only those between it and where it was change. */
  private dim(at: number | null): void {
    const { end } = this.state.steps;
    const from = at === null ? end : Math.min(end, at + 1);
    const set = (low: number, high: number, on: boolean) => {
      for (let step = low; step < high; step += 1) {
        this.tokens.get(step)?.classList.toggle("oj-future", on);
      }
    };
    set(this.dimmedFrom, Math.min(from, this.dimmedTo), false);
    set(from, Math.max(from, Math.min(this.dimmedFrom, end)), true);
    set(Math.max(from, this.dimmedTo), end, true);
    [this.dimmedFrom, this.dimmedTo] = [from, end];
  }

  /** Add the tokens that arrived since the last redraw. */
  private grow(): void {
    const { state } = this;
    const { steps } = state;
    if (state.textEpoch !== this.epoch || this.tokens.size > 2 * KEPT_STEPS) this.restart();
    for (let step = this.next; step < steps.end; step += 1) {
      const text = state.textOf(step);
      if (!text) continue;
      const token = el("span", `oj-token oj-miss-${this.shade(step)}`, {}, text);
      this.tokens.set(step, token);
      this.stepOf.set(token, step);
      this.rest.before(token);
      if (text.endsWith("\n")) this.beginParagraph();
    }
    this.next = Math.max(this.next, steps.end);
    const end = steps.length ? state.textEndOf(steps.end - 1) : state.textStart;
    const rest = state.text.slice(Math.max(0, end - state.textStart));
    if (this.rest.data !== rest) this.rest.data = rest;
  }

  private restart(): void {
    const { state } = this;
    this.log.replaceChildren(this.lead);
    this.beginParagraph();
    this.tokens.clear();
    this.marked.clear();
    this.epoch = state.textEpoch;
    this.revealed = null;
    this.dimmedFrom = this.dimmedTo = 0;
    // The text of the oldest step begins where the one before it ended, which is dropped.
    this.next = state.steps.first > 0 ? state.steps.first + 1 : 0;
    const lead = this.next ? state.textEndOf(state.steps.first) : 0;
    this.lead.data = state.text.slice(0, Math.max(0, (lead || 0) - state.textStart));
  }

  private beginParagraph(): void {
    this.paragraph = el("div", "oj-paragraph", {}, this.rest, this.caret, this.hint);
    this.log.append(this.paragraph);
  }

  /** The shade of a step, 0 to 3, by its share of misses. */
  private shade(step: number): number {
    const { steps } = this.state;
    const misses = steps.at("misses", step);
    const share = misses / Math.max(1, misses + steps.at("hits", step));
    return SHADES.filter((least) => share > least).length;
  }

  /** Set a class on the tokens of `steps`, and on no others. */
  private mark(name: string, steps: readonly number[]): void {
    const before = this.marked.get(name) ?? new Set();
    const now = new Set(steps);
    for (const step of before) if (!now.has(step)) this.tokens.get(step)?.classList.remove(name);
    for (const step of now) if (!before.has(step)) this.tokens.get(step)?.classList.add(name);
    this.marked.set(name, now);
  }

  private listen(signal: AbortSignal): void {
    const { log, focus } = this;
    const at = (event: Event): number | null => {
      const token = (event.target as Element).closest?.(".oj-token");
      return (token && this.stepOf.get(token)) ?? null;
    };
    log.addEventListener(
      "scroll",
      () => {
        this.following = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
      },
      { signal },
    );
    log.addEventListener("pointerover", (event) => focus.hoverStep(at(event)), { signal });
    log.addEventListener("pointerleave", () => focus.hoverStep(null), { signal });
    log.addEventListener("blur", () => focus.hoverStep(null), { signal });
    log.addEventListener(
      "click",
      (event) => {
        // A user who has selected text wants to copy it.
        const step = at(event);
        if (step !== null && getSelection()?.isCollapsed !== false) focus.moveTo(step);
      },
      { signal },
    );
    log.addEventListener("keydown", (event) => focus.stepKey(event, this.state.steps.end - 1), {
      signal,
    });
  }

  private toEnd(): void {
    this.following = true;
    this.log.scrollTop = this.log.scrollHeight;
  }

  /**
   * Scroll the text, and nothing else on the page, until a token is in sight. For a step without
   * text it is the token before.
   */
  private reveal(step: number): void {
    let token = this.tokens.get(step);
    for (let at = step; !token && at > this.state.firstToken; ) token = this.tokens.get(--at);
    if (!token) return;
    const [box, view] = [token.getBoundingClientRect(), this.log.getBoundingClientRect()];
    if (box.top < view.top) this.log.scrollTop -= view.top - box.top;
    if (box.bottom > view.bottom) this.log.scrollTop += box.bottom - view.bottom;
  }

  private readout(input: DrawInput): string {
    const { state } = this;
    const step = input.step ?? (state.generated ? state.steps.end - 1 : null);
    if (step === null || Number.isNaN(state.steps.at("tokenMs", step))) return "";
    const [hits, misses] = [state.steps.at("hits", step), state.steps.at("misses", step)];
    const text = visible(state.textOf(step));
    const parts = [this.name(step), text, ms(state.steps.at("tokenMs", step))];
    if (hits + misses) parts.push(`${misses} of ${integer(hits + misses)} missed`);
    const read = state.steps.at("nbytes", step);
    if (read) parts.push(`${bytes(read)} read`);
    return parts.filter(Boolean).join(" · ");
  }

  private table(): Table {
    const { state } = this;
    const { steps } = state;
    const rows: string[][] = [];
    const least = Math.max(state.firstToken, steps.first, steps.end - LAST);
    for (let step = steps.end - 1; step >= least; step -= 1) {
      const numbers = [steps.at("hits", step), steps.at("misses", step)].map(integer);
      const spent = ms(steps.at("tokenMs", step));
      const read = bytes(steps.at("nbytes", step));
      rows.push([this.name(step), visible(state.textOf(step)), spent, ...numbers, read]);
    }
    const caption = `The last ${LAST} tokens, newest first`;
    return { caption, head: ["Token", "Text", "Time", "Hits", "Misses", "Bytes"], rows };
  }
}

/** A token's text in quotes, with visible spaces and line ends; "" for no text. */
function visible(text: string): string {
  if (!text) return "";
  return `“${text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "\u00a0")}”`;
}

function hint(state: RunState, status: Status): string {
  if (status === "waiting") return "Waiting for the run to begin.";
  if (status !== "running") return "No text was generated.";
  return state.promptTokens ? `Reading the prompt, ${state.promptTokens} tokens…` : "Starting…";
}
