// Panel: the playhead's token explained: its time as one bar, its reads over that time, and three
// sentences; or the pinned expert.
//
// Python, which knows the whole run, sends the explanation on request. Until it arrives, and
// without a kernel, the view explains what it knows itself.

import type { Cell, Focus } from "../../charts/focus";
import { Timeline } from "../../charts/timeline";
import { el, setText } from "../../widget/dom";
import { ms, percent, plural, quoted } from "../../widget/format";
import { same } from "../../widget/same";
import type { DrawInput } from "../draw-input";
import { expertSentences, type Spent, slowest, spentBy, tokenSentences } from "../explain-words";
import { HINT } from "../hint";
import type { Explanation, RunStore, Subject } from "../store";
import { partsOf, roleOf } from "../time-parts";
import { legendItem } from "./panel";

/** How many tokens of an expert are listed, and how many slow tokens are offered. */
const MAX_LISTED = 24;
const SLOWEST = 3;

export class ExplainPanel {
  readonly node: HTMLElement;
  readonly #title = el("span", "", {});
  readonly #close = el("button", "oj-button", { type: "button" }, "×");
  readonly #bar = el("div", "oj-time-bar", { role: "img" });
  readonly #named = el("div", "oj-legend-row oj-time-named", { "aria-hidden": "true" });
  readonly #timeline: Timeline;
  readonly #sentences = el("div", "oj-sentences", {});
  readonly #slow = el("div", "oj-slowest", {});
  readonly #rest = el("details", "oj-explain-rest", {});
  readonly #summary = el("summary", "", {});
  readonly #restText = el("div", "oj-explain-rest-text", {});
  readonly #body: HTMLElement;
  /** What the bar and the list of slow tokens show. */
  #barKey = "";
  #said: readonly string[] = [];
  #saidFrom: readonly unknown[] = [];
  #shown = "";
  #slowKey = "";

  constructor(
    private readonly store: RunStore,
    private readonly focus: Focus,
    private readonly hint: HTMLElement,
    signal: AbortSignal,
  ) {
    this.#close.setAttribute("aria-label", "Close the explanation");
    this.#close.addEventListener("click", () => focus.clear(), { signal });
    this.#timeline = new Timeline(signal);
    this.#rest.append(this.#summary, this.#restText);
    const picture = [hint, this.#bar, this.#timeline.node, this.#sentences, this.#slow];
    const parts = [...picture, this.#named, this.#rest];
    const label = { tabindex: "0", role: "group", "aria-label": "About the token or expert" };
    this.#body = el("div", "oj-explain-body", label, ...parts);
    const rest = this.#rest,
      body = this.#body;
    const opened = () => {
      if (rest.open) body.scrollTop += rest.offsetTop - body.offsetTop - body.scrollTop;
    };
    rest.addEventListener("toggle", opened, { signal });
    const head = el("header", "oj-panel-head", {}, el("h3", "", {}, this.#title), this.#close);
    const attributes = { "aria-label": "Explanation" };
    this.node = el("section", "oj-panel oj-explain", attributes, head, this.#body);
  }

  /** Let the keyboard scroll and read the explanation. */
  focusText(): void {
    this.#body.focus();
  }

  /** Draw; returns whether a token or an expert is explained. */
  draw(input: DrawInput): boolean {
    const { at } = input;
    const { pinnedCell, expertLast } = this.focus;
    const cell = pinnedCell?.expert != null && (expertLast || at === null) ? pinnedCell : null;
    this.#close.hidden = at === null && cell === null;
    const shown = JSON.stringify([at, cell]);
    if (shown !== this.#shown) this.#body.scrollTop = 0;
    this.#shown = shown;
    this.#drawSlowest(input, at === null && cell === null);
    if (cell) this.#drawExpert(cell, input);
    else if (at !== null) this.#drawToken(at, input);
    else {
      setText(this.#title, "Explanation");
      this.#drawBar([], Number.NaN);
      this.#timeline.draw(null, 1, input.theme);
      this.#say(this.hint.hidden ? [HINT] : []);
      this.#fold("", "");
    }
    return !!cell || at !== null;
  }

  #drawToken(step: number, input: DrawInput): void {
    const { state, info } = this.store;
    const total = state.steps.at("tokenMs", step);
    setText(this.#title, `Why ${input.name(step)} took ${ms(total)}`);
    const parts = partsOf(info);
    this.#drawBar(spentBy(state, parts, step), total);
    const answer = this.#answer({ step }, input);
    this.#say(answer?.token?.sentences ?? this.#sentencesOf(step, input));
    this.#timeline.draw(answer?.token ?? null, state.layers, input.theme);
    const { layers, notes } = answer?.token ?? { layers: [], notes: [] };
    const rows = layers.map(
      ([layer, wait, misses]) => `Layer ${layer} waited ${wait} for ${misses}.`,
    );
    const more = [...rows, ...notes].join("\n");
    this.#fold("All layers and limits", more || (answer?.words ?? ""));
  }

  /** What the frames say about a token, searched once. */
  #sentencesOf(step: number, { version, name, resting }: DrawInput): readonly string[] {
    const { state, info } = this.store;
    const from = [step, version, resting];
    if (!same(from, this.#saidFrom))
      this.#said = tokenSentences(state, partsOf(info), step, name, resting);
    this.#saidFrom = from;
    return this.#said;
  }

  #drawExpert(cell: Cell, input: DrawInput): void {
    const { state } = this.store;
    const { layer, expert } = cell;
    setText(this.#title, `Layer ${layer}, expert ${expert}`);
    this.#drawBar([], Number.NaN);
    this.#timeline.draw(null, 1, input.theme);
    const users = state.usersOf(layer, expert!);
    this.#say(expertSentences(state, cell, input.at, users, input.name));
    const texts = users
      .slice(-MAX_LISTED)
      .map((step) => `${input.name(step)} ${quoted(state.textOf(step))}`);
    const more = users.length > MAX_LISTED ? ` (the last ${MAX_LISTED})` : "";
    const known = `${plural(users.length, "token")}${more}: ${texts.join(", ")}`;
    this.#fold("Its tokens", this.#answer({ layer, expert: expert! }, input)?.words || known);
  }

  /** Python's explanation; it is requested once the playhead rests. */
  #answer(subject: Subject, { resting }: DrawInput): Explanation | null {
    return this.store.explanation(subject, resting || "expert" in subject);
  }

  /** One bar of the token's time, divided by its parts. */
  #drawBar(spent: readonly Spent[], total: number): void {
    const key = JSON.stringify([spent.map(({ part, ms }) => [part.column, ms]), total]);
    if (key === this.#barKey && this.#bar.childElementCount) return;
    this.#barKey = key;
    this.#bar.hidden = this.#named.hidden = !spent.length;
    const text = ({ part, ms: time }: Spent) =>
      `${part.name} ${ms(time)} (${percent(time, total)})`;
    this.#bar.setAttribute("aria-label", `Time by part: ${spent.map(text).join(", ")}`);
    const pieces = spent.map((each) => {
      const piece = el("span", "oj-time-piece", { title: `${text(each)}: ${each.part.means}` });
      piece.classList.add(`oj-swatch-${roleOf(each.part)}`);
      piece.style.flexGrow = String(each.ms);
      return piece;
    });
    this.#bar.replaceChildren(...pieces);
    const named = spent.map((each) => legendItem(roleOf(each.part), text(each)));
    this.#named.replaceChildren(...named);
  }

  #say(sentences: readonly string[]): void {
    if (this.#sentences.textContent === sentences.join("")) return;
    this.#sentences.replaceChildren(...sentences.map((each) => el("p", "", {}, each)));
  }

  #fold(title: string, text: string): void {
    this.#rest.hidden = !text;
    setText(this.#summary, title);
    setText(this.#restText, text);
  }

  /** Buttons that lead to the slowest tokens of a run that is over. */
  #drawSlowest(input: DrawInput, wanted: boolean): void {
    const { state, running } = this.store;
    this.#slow.hidden = !wanted || running || state.generated < 2 * SLOWEST;
    if (this.#slow.hidden) return;
    const steps = slowest(state, SLOWEST);
    const key = `${state.epoch} ${state.seq} ${steps.join()}`;
    if (key === this.#slowKey) return;
    this.#slowKey = key;
    const buttons = steps.map((step) => {
      const text = `${input.name(step)} · ${ms(state.steps.at("tokenMs", step))}`;
      const button = el("button", "oj-button", { type: "button" }, text);
      button.addEventListener("click", () => this.focus.moveTo(step));
      return button;
    });
    this.#slow.replaceChildren(el("span", "", {}, "Slowest:"), ...buttons);
  }
}
