// What an empty conversation offers: prompts as buttons, which send themselves.

import { el, setText } from "../widget/dom";
import { button } from "./button";
import type { ChatStore } from "./store";

export class Starters {
  readonly node = el("div", "oj-start");
  readonly #hint = el("div", "");
  readonly #buttons = el("div", "oj-starters");

  constructor(
    private readonly store: ChatStore,
    private readonly ask: (text: string) => void,
  ) {
    this.node.append(this.#hint, this.#buttons);
  }

  draw(usable: boolean): void {
    const { state, info, starters } = this.store;
    this.node.hidden = state.messages.length > 0;
    if (this.node.hidden) return;
    const model = info.model ?? "the model";
    setText(this.#hint, `Ask ${model} a question${starters.length ? ", or begin with:" : "."}`);
    if (this.#buttons.childElementCount !== starters.length)
      this.#buttons.replaceChildren(
        ...starters.map((text) => button(text, "Send this", () => this.ask(text))),
      );
    for (const each of this.#buttons.querySelectorAll("button"))
      each.disabled = !usable || state.running;
  }
}
