// Explains the playhead's token, or the pinned expert, in words beside the text.
//
// Python, which knows the whole run, sends the explanation on request. Until it arrives, and
// without a kernel, the view explains what it knows itself.

import type { Cell, Focus } from "../../charts/focus";
import { el, setText } from "../../widget/dom";
import { bytes, integer, ms, percent, plural } from "../../widget/format";
import type { DrawInput } from "../draw-input";
import { NO_EXPERT } from "../frames";
import type { RunState } from "../state";
import type { RunStore, Subject } from "../store";
import { partsOf } from "../time-parts";

/** How many tokens or layers are listed at most. */
const MAX_LISTED = 24;

/** What the panel says while nothing is selected. */
const HINT = "Click a token to see what it waited for. ← → move.";

export class Detail {
  readonly node: HTMLElement;
  private readonly title = el("span", "", {});
  private readonly close = el("button", "oj-button", { type: "button" }, "Close");
  private readonly text = el("div", "oj-detail-text", { tabindex: "0", role: "group" });

  constructor(
    private readonly store: RunStore,
    private readonly focus: Focus,
    signal: AbortSignal,
  ) {
    this.close.addEventListener("click", () => focus.clear(), { signal });
    this.text.setAttribute("aria-label", "About the token or expert");
    const head = el("header", "oj-panel-head", {}, el("h3", "", {}, this.title), this.close);
    const attributes = { "aria-label": "Explanation" };
    this.node = el("section", "oj-panel oj-explain", attributes, head, this.text);
  }

  draw(input: DrawInput): void {
    const { at } = input;
    const { pinnedCell, expertLast } = this.focus;
    const cell = pinnedCell?.expert != null && (expertLast || at === null) ? pinnedCell : null;
    this.close.hidden = at === null && cell === null;
    if (cell) {
      setText(this.title, `Tokens of layer ${cell.layer}, expert ${cell.expert}`);
      const subject = { layer: cell.layer, expert: cell.expert! };
      setText(this.text, this.answer(subject, input) ?? this.describeExpert(cell, input));
    } else if (at !== null) {
      setText(this.title, `Where the time of ${input.name(at)} went`);
      setText(this.text, this.answer({ step: at }, input) ?? this.describeStep(at, input));
    } else {
      setText(this.title, "Explanation");
      setText(this.text, HINT);
    }
  }

  /** Python's explanation; it is requested once the playhead rests. */
  private answer(subject: Subject, { resting }: DrawInput): string | null {
    return this.store.explanation(subject, resting);
  }

  /** What the frames report about a token. */
  private describeStep(step: number, input: DrawInput): string {
    const { steps, layers } = this.store.state;
    const total = steps.at("tokenMs", step);
    if (Number.isNaN(total)) return "Its numbers are no longer kept.";
    const lines = [`${input.name(step)} took ${ms(total)}.`];
    for (const { name, column } of partsOf(this.store.info, this.store.state)) {
      const spent = steps.part(column, step, step + 1)[0] ?? 0;
      if (spent >= 0.0005) lines.push(`  ${name}: ${ms(spent)} (${percent(spent, total)})`);
    }
    const [misses, hits] = [steps.at("misses", step), steps.at("hits", step)];
    lines.push(
      `${integer(misses)} of ${integer(misses + hits)} lookups missed; ${bytes(steps.at("nbytes", step))} were read in ${plural(steps.at("reads", step), "read")}.`,
    );
    let remaining = MAX_LISTED;
    for (let layer = 0; layer < layers && remaining > 0; layer += 1) {
      const missed = missedIn(this.store.state, step, layer);
      if (!missed.length) continue;
      lines.push(`  layer ${layer}: expert ${missed.join(", ")} had to be read`);
      remaining -= 1;
    }
    return lines.join("\n");
  }

  /** The tokens that chose an expert, among those whose routing is kept. */
  private describeExpert({ layer, expert }: Cell, input: DrawInput): string {
    const { state } = this.store;
    const users = state.usersOf(layer, expert!);
    const texts = users
      .slice(-MAX_LISTED)
      .map((step) => `${input.name(step)} “${state.textOf(step).replaceAll("\n", "↵")}”`);
    const more = users.length > MAX_LISTED ? ` (the last ${MAX_LISTED})` : "";
    return `Chosen by ${plural(users.length, "token")}${more}: ${texts.join(", ")}`;
  }
}

function missedIn(state: RunState, step: number, layer: number): number[] {
  const missed: number[] = [];
  state.routing.chosen(step, layer).forEach((expert, i) => {
    if (expert !== NO_EXPERT && !state.routing.hit(step, layer, i)) missed.push(expert);
  });
  return missed;
}
