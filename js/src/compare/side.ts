// One of the two runs: its state, and the parts of the run view that show it.

import { Focus, type Playhead } from "../charts/focus";
import { drawInput } from "../live/draw-input";
import { ExpertHistory } from "../live/history";
import { isOver } from "../live/info";
import { ResidencyPanel } from "../live/panels/residency";
import { RoutingPanel } from "../live/panels/routing";
import { TextPanel } from "../live/panels/text";
import type { ExpertStates } from "../live/state";
import type { RunStore } from "../live/store";
import { el, setText } from "../widget/dom";
import { bytes, percent, short } from "../widget/format";
import type { Theme } from "../widget/theme";
import type { Pair } from "./pair";

export class Side {
  readonly heading = el("div", "oj-side");
  readonly text: TextPanel;
  readonly routing: RoutingPanel;
  readonly residency: ResidencyPanel;
  /** The experts at the playhead. */
  experts: ExpertStates;
  readonly #focus: Focus;
  readonly #history: ExpertHistory;
  readonly #before: ExpertHistory;
  readonly #numbers = el("span", "oj-side-numbers");

  /** `name` stands for the run in all sentences. */
  constructor(
    readonly name: string,
    readonly store: RunStore,
    private readonly pair: Pair,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const { state } = store;
    this.experts = state;
    this.#focus = new Focus(changed, this.#playhead());
    this.#history = new ExpertHistory(state);
    this.#before = new ExpertHistory(state);
    const shared = [state, this.#focus, changed, signal] as const;
    this.text = new TextPanel(store, ...shared);
    this.routing = new RoutingPanel(...shared);
    this.residency = new ResidencyPanel(store, this.#focus, changed, signal);
    for (const { panel } of [this.text, this.routing, this.residency]) {
      const label = `${name}: ${panel.node.getAttribute("aria-label")}`;
      panel.node.setAttribute("aria-label", label);
    }
    for (const { panel } of [this.routing, this.residency]) {
      panel.node.querySelector(".oj-fold")?.append(` · ${name}`);
    }
    this.heading.append(el("strong", "oj-side-name", {}, name), " ", this.#numbers);
  }

  draw(theme: Theme): void {
    const { store, pair } = this;
    const { state, info, status } = store;
    const at = pair.stepIn(state);
    this.experts = at === null ? state : this.#history.show(at);
    const input = drawInput(state, this.#focus, theme, this.experts, this.#before);
    setText(this.#numbers, this.#describe());
    for (const each of [this.routing, this.residency]) {
      each.panel.setHint(state.layers * state.experts ? "" : "nothing yet");
    }
    this.routing.draw(input);
    this.residency.draw(input);
    this.text.draw(input, status, info.prompt ?? "");
    const now = performance.now();
    for (const { panel } of [this.text, this.routing, this.residency]) panel.drawTable(now);
  }

  #describe(): string {
    const { state, info, status } = this.store;
    const parts = [info.model ?? "", `${short(state.tokensPerSecond)} tokens/s`];
    parts.push(`hit rate (decode) ${percent(state.hitRates.decode)}`);
    parts.push(`${bytes(state.totals.nbytes)} read`);
    if (!isOver(status)) parts.push(status === "waiting" ? "waiting" : "running");
    if (status === "interrupted") parts.push("stopped early");
    if (status === "error") parts.push("failed");
    return parts.filter(Boolean).join(" · ");
  }

  /** The pair's playhead, as this run's steps. */
  #playhead(): Playhead {
    const { pair, store } = this;
    return {
      get at() {
        return pair.stepIn(store.state);
      },
      moveTo: (step) => pair.playback.moveTo(step - store.state.firstToken),
      follow: () => pair.playback.follow(),
    };
  }
}
