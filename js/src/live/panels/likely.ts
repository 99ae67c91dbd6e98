// What the model found likely in the place of a token: a row of bars, the likeliest first. A click goes on from
// there with another token.

import { el, setText } from "../../widget/dom";
import { integer, nats, percent, probability, quoted } from "../../widget/format";
import type { Alternative, Likely } from "../alternatives";
import type { RunStore } from "../store";

/** A bar: its button, the text in it, and the probability. */
interface Bar {
  node: HTMLButtonElement;
  text: HTMLElement;
  share: HTMLElement;
}

export class LikelyRow {
  readonly node = el("div", "oj-likely", {
    role: "group",
    "aria-label": "Likely tokens",
    hidden: true,
  });
  readonly #bars: Bar[] = [];
  /** The step whose bars are shown. */
  #step = 0;
  #shown: readonly Alternative[] = [];

  constructor(private readonly store: RunStore) {}

  /** Show the bars of a step; of null the last token's. */
  draw(step: number | null, name: (step: number) => string): void {
    const { store, node } = this;
    const { state } = store;
    node.hidden = !store.hasAlternatives || !state.generated;
    if (node.hidden) return;
    this.#step = step ?? state.steps.end - 1;
    const found = store.likely(this.#step);
    const label = `${found ? "Likely" : "Nothing known"} in the place of ${name(this.#step)}`;
    node.setAttribute("aria-label", label);
    this.#shown = found ? withChosen(found) : [];
    while (this.#bars.length < this.#shown.length) this.#bars.push(this.#add(this.#bars.length));
    for (const [n, bar] of this.#bars.entries()) this.#drawBar(bar, this.#shown[n], found);
  }

  #add(n: number): Bar {
    const [text, share] = [el("span", ""), el("span", "oj-share")];
    const node = el("button", "oj-alternative", { type: "button" }, text, share);
    // It goes with its button, which stays: no signal is needed.
    node.addEventListener("click", () => {
      if (node.ariaDisabled !== "true") this.store.branch(this.#step, this.#shown[n][0]);
    });
    this.node.append(node);
    return { node, text, share };
  }

  #drawBar({ node, text, share }: Bar, one: Alternative | undefined, found: Likely | null): void {
    node.hidden = !one;
    if (!one || !found) return;
    const [token, piece, logprob] = one;
    const { rank } = found;
    const chosen = token === found.chosen[0];
    const late = chosen && rank > found.others.length ? ` · rank\u202f${integer(rank)}` : "";
    setText(text, quoted(piece) || `#${token}`);
    const some = Math.exp(logprob);
    setText(
      share,
      (some < 0.001 ? "<\u202f0.1\u202f%" : percent(Number(some.toPrecision(2)))) + late,
    );
    node.style.setProperty("--oj-share", `${(100 * Math.exp(logprob)).toFixed(1)}%`);
    node.classList.toggle("oj-taken", chosen);
    const why = chosen ? "The run has this token." : this.store.branchProblem;
    node.ariaDisabled = String(why !== "");
    node.title = `${quoted(piece)} ${probability(logprob)}, surprise ${nats(-logprob)}. ${why || "Click: go on from here with it."}`;
  }
}

/** The likeliest tokens, and after them the chosen one if it is not among them. */
function withChosen({ chosen, others }: Likely): readonly Alternative[] {
  return others.some(([token]) => token === chosen[0]) ? others : [...others, chosen];
}
