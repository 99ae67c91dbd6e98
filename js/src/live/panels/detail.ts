// What is known of the token or the expert that is pinned, in words, below the panels.
//
// The words come from Python, which knows the whole run and is asked once for each. Until they come,
// and where there is no kernel to ask, stands what the view itself knows.

import { el, setText } from "../../widget/dom";
import type { Cell, Focus } from "../../charts/focus";
import { bytes, integer, ms, percent, plural } from "../../widget/format";
import { NO_EXPERT } from "../frames";
import type { Look } from "../draw-input";
import { partsOf } from "../time-parts";
import type { RunState } from "../state";
import type { About, Store } from "../store";

/** Tokens or layers named before the rest is counted. */
const NAMED = 24;

export class Detail {
  readonly node: HTMLElement;
  private readonly title = el("h3", "", {});
  private readonly words = el("div", "oj-detail-words", { tabindex: "0", role: "group" });

  constructor(
    private readonly store: Store,
    private readonly focus: Focus,
    signal: AbortSignal,
  ) {
    const close = el("button", "oj-button", { type: "button" }, "Close");
    close.addEventListener("click", () => focus.clear(), { signal });
    this.words.setAttribute("aria-label", "About what is pinned");
    const head = el("header", "oj-detail-head", {}, this.title, close);
    this.node = el("section", "oj-detail", { "aria-label": "Explanation" }, head, this.words);
    this.node.hidden = true;
  }

  draw(look: Look): void {
    const { pinnedStep, pinnedCell } = this.focus;
    const cell = pinnedCell?.expert == null ? null : pinnedCell;
    this.node.hidden = pinnedStep === null && cell === null;
    if (this.node.hidden) return;
    const about: About =
      pinnedStep === null ? { layer: cell!.layer, expert: cell!.expert! } : { step: pinnedStep };
    setText(
      this.title,
      pinnedStep === null
        ? `Tokens of layer ${cell!.layer}, expert ${cell!.expert}`
        : `Where the time of ${look.name(pinnedStep)} went`,
    );
    const known = pinnedStep === null ? this.ofExpert(cell!, look) : this.ofStep(pinnedStep, look);
    setText(this.words, this.store.told(about) ?? known);
  }

  /** What the frames tell of a token. */
  private ofStep(step: number, look: Look): string {
    const { steps, layers } = this.store.state;
    const total = steps.at("tokenMs", step);
    if (Number.isNaN(total)) return "Its numbers are not kept any more.";
    const lines = [`${look.name(step)} took ${ms(total)}.`];
    for (const { name, column } of partsOf(this.store.info, this.store.state)) {
      const spent = steps.part(column, step, step + 1)[0] ?? 0;
      if (spent >= 0.0005) lines.push(`  ${name}: ${ms(spent)} (${percent(spent, total)})`);
    }
    const [misses, hits] = [steps.at("misses", step), steps.at("hits", step)];
    lines.push(
      `${integer(misses)} of ${integer(misses + hits)} look-ups missed; ${bytes(steps.at("nbytes", step))} were read in ${plural(steps.at("reads", step), "read")}.`,
    );
    let left = NAMED;
    for (let layer = 0; layer < layers && left > 0; layer += 1) {
      const missed = missedIn(this.store.state, step, layer);
      if (!missed.length) continue;
      lines.push(`  layer ${layer}: expert ${missed.join(", ")} had to be read`);
      left -= 1;
    }
    return lines.join("\n");
  }

  /** The tokens that chose an expert, as far as their routing is kept. */
  private ofExpert({ layer, expert }: Cell, look: Look): string {
    const { state } = this.store;
    const users = state.usersOf(layer, expert!);
    const texts = users
      .slice(-NAMED)
      .map((step) => `${look.name(step)} “${state.textOf(step).replaceAll("\n", "↵")}”`);
    const more = users.length > NAMED ? ` (the last ${NAMED})` : "";
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
