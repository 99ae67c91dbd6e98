// Panel: the generated text. Its colour means what the user chose: the miss rate, the time, ….

import type { Cell, Focus } from "../../charts/focus";
import { el, setText } from "../../widget/dom";
import { bytes, integer, ms, plural, quoted } from "../../widget/format";
import type { Users } from "../chosen-tokens";
import type { DrawInput } from "../draw-input";
import type { Status } from "../info";
import type { RunState } from "../state";
import type { RunStore } from "../store";
import { TokenChoice } from "../token-choice";
import { ColourSwitch } from "./colour-switch";
import { LikelyRow } from "./likely";
import { Panel, type Table } from "./panel";
import { type Colouring, colouringsOf } from "./text-colour";
import { TextLog } from "./text-log";
import { TextPaint } from "./text-paint";
import { tokenTable } from "./token-table";

/** How long a text that a reader scrolls does not follow the playhead. */
const LEFT_ALONE_MS = 4000;

export class TextPanel {
  readonly panel: Panel;
  readonly #hint = el("span", "oj-text-hint");
  readonly #caret = el("span", "oj-caret", { "aria-hidden": "true" });
  readonly #prompt = el("div", "oj-prompt");
  readonly #log: TextLog;
  readonly #choice: TokenChoice;
  readonly #paint: TextPaint;
  readonly #switch: ColourSwitch;
  readonly #likely: LikelyRow;
  /** The colouring that the user chose. */
  #colouring = "miss";
  #length = 0;
  #revealed: number | null = null;
  /** Whether the playhead rested when it was. */
  #settled = false;
  /** The step shown last; null if the view followed the run, undefined if it was out of sight. */
  #shown: number | null | undefined = null;
  #input!: DrawInput;

  constructor(
    private readonly source: RunStore,
    private readonly state: RunState,
    private readonly focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    this.#log = new TextLog(state, [this.#caret, this.#hint], signal);
    this.#choice = new TokenChoice(this.#log, state, focus, signal);
    this.#paint = new TextPaint(this.#log, source);
    const chosen = (key: string) => {
      this.#colouring = key;
      changed();
    };
    this.#switch = new ColourSwitch(chosen, signal);
    const legend = this.#switch.node;
    this.panel = new Panel("Text", "text", legend, () => this.#table(), changed, signal);
    this.#likely = new LikelyRow(source);
    const parts = [this.#prompt, this.#log.node, this.#likely.node];
    this.panel.add(el("div", "oj-text-body", {}, ...parts), 1);
  }

  /** Share the scale of the colours with another text, which shares its own. */
  shareScale(other: TextPanel): void {
    this.#paint.beside = other.#paint;
    other.#paint.beside = this.#paint;
  }

  /** Mark the token with which this text parts from another; null for none. */
  markParting(step: number | null): void {
    this.#log.mark("oj-parts", step === null ? [] : [step]);
  }

  /** The text has come into sight, where a page may have forgotten how far it was scrolled. */
  seen(): void {
    this.#revealed = null;
    if (this.#log.following) this.#shown = undefined;
  }

  draw(input: DrawInput, status: Status, prompt: string): void {
    const { state } = this,
      log = this.#log;
    const { at, step } = input;
    this.#input = input;
    setText(this.#prompt, prompt);
    this.#prompt.hidden = !prompt;
    const count = state.generated;
    this.panel.setSubtitle(count ? plural(count, "token") : "");
    log.grow();
    log.segment(this.source.kinds);
    this.#likely.draw(step, input.name);
    const colouring = this.#drawColours(status);
    this.panel.setReadout(this.#readout(input, colouring), this.focus.any);
    this.#choice.settle();
    log.dim(at);
    log.mark("oj-on", step === null ? [] : [step]);
    log.mark("oj-at", at === null ? [] : [at]);
    log.mark("oj-highlight", input.users ?? []);
    log.mark("oj-chosen", this.focus.chosen);
    this.#show(at, input.resting); // last, as it lays the text out
    const followed = this.#shown !== null && at === null;
    this.#shown = at;
    if (followed) log.following = true; // the end is shown again
    this.#caret.hidden = status !== "running" || !state.text || at !== null;
    setText(this.#hint, state.text ? "" : hint(state, status));
    const longer = this.#length !== state.text.length;
    if ((longer || followed) && log.following && at === null) log.toEnd();
    if (followed) requestAnimationFrame(() => log.toEnd()); // by then the heights are known
    this.#length = state.text.length;
  }

  /** Colour the text, and draw the legend; returns the colouring in use. */
  #drawColours(status: Status): Colouring {
    const { state } = this;
    const all = colouringsOf(state, this.source, this.focus.pinnedCell);
    const used = all.find(({ key }) => key === this.#colouring) ?? all[0];
    const over = status !== "running" && status !== "waiting";
    const { dataset } = this.panel.node;
    if (dataset.ojColour !== used.key) dataset.ojColour = used.key;
    const scale = this.#paint.paint(used, over);
    this.#switch.draw(all, used, scale, over);
    return used;
  }

  /** Keep the playhead's token in sight, also once the explanation beside it has its height. */
  #show(at: number | null, resting: boolean): void {
    const left = this.#log.scrolledAt + LEFT_ALONE_MS > performance.now();
    const settled = resting && !this.#settled;
    if (at !== null && !left && (at !== this.#revealed || settled)) {
      this.#log.reveal(at);
      // The page guesses the heights of paragraphs out of sight, and knows them once they are in
      // sight.
      requestAnimationFrame(() => this.#revealed === at && this.#log.reveal(at));
    }
    this.#revealed = at;
    this.#settled = resting;
  }

  #readout(input: DrawInput, colouring: Colouring): string {
    const { state, focus } = this;
    const { chosenBy, at } = input;
    if (this.source.branchNote) return this.source.branchNote;
    if (!focus.stepHovered) {
      const expertsLast = focus.cellHovered || focus.expertLast || at === null;
      if (chosenBy && expertsLast) return usersText(focus.experts, chosenBy);
      if (focus.chosen.length > 1) return this.#choiceText(focus.chosen);
    }
    const step = input.step ?? (state.generated ? state.steps.end - 1 : null);
    if (step === null || Number.isNaN(state.steps.at("tokenMs", step))) return "";
    const [hits, misses] = [state.steps.at("hits", step), state.steps.at("misses", step)];
    const text = quoted(state.textOf(step));
    const kind = this.source.kindOf(step);
    const parts = [
      input.name(step),
      kind === "answer" ? "" : kind === "template" ? "a mark of the chat template" : kind,
      text,
      ms(state.steps.at("tokenMs", step)),
    ];
    if (hits + misses) parts.push(`${misses} of ${integer(hits + misses)} missed`);
    const read = state.steps.at("nbytes", step);
    if (read) parts.push(`${bytes(read)} read`);
    const value = colouring.value(step);
    if (colouring.label && !Number.isNaN(value)) {
      parts.push(`${colouring.label} ${colouring.format(value)}`);
    }
    return parts.filter(Boolean).join(" · ");
  }
  /** "5 tokens chosen, token 12 to token 16 · “…”". */
  #choiceText(chosen: readonly number[]): string {
    const [first, last] = [chosen[0], chosen[chosen.length - 1]];
    const words = chosen.map((step) => this.state.textOf(step)).join("");
    const text = words.length > 60 ? `${words.slice(0, 60)}…` : words;
    const span = `${this.#input.name(first)} to ${this.#input.name(last)}`;
    return `${plural(chosen.length, "token")} chosen, ${span} · ${quoted(text)}`;
  }

  #table(): Table {
    const { state } = this;
    const { steps } = state;
    const row = (step: number) => {
      const numbers = [steps.at("hits", step), steps.at("misses", step)].map(integer);
      const spent = ms(steps.at("tokenMs", step));
      const read = bytes(steps.at("nbytes", step));
      return [quoted(state.textOf(step)), spent, ...numbers, read];
    };
    const first = Math.max(state.firstToken, steps.first);
    const head = ["Text", "Time", "Hits", "Misses", "Bytes"];
    return tokenTable(state, this.#input, head, row, first);
  }
}

/** "12 of the run’s 64 tokens chose layer 3 expert 17". */
function usersText(experts: readonly Cell[], { any, all, of }: Users): string {
  const tokens = `${integer(any)} of the run’s ${plural(of, "token")} chose`;
  if (experts.length === 1)
    return `${tokens} layer ${experts[0].layer} expert ${experts[0].expert}`;
  return `${tokens} any of ${plural(experts.length, "expert")}; ${integer(all)} chose all of them`;
}

function hint(state: RunState, status: Status): string {
  if (status === "waiting") return "Waiting for the run to begin.";
  if (status !== "running") return "No text was generated.";
  return state.promptTokens ? `Reading the prompt, ${state.promptTokens} tokens…` : "Starting…";
}
