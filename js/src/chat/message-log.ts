// The log of messages. It redraws messages that changed, follows the end, and keeps the focus when
// another version of a message replaces the one that had it.

import { el, setText } from "../widget/dom";
import { integer } from "../widget/format";
import { MessageNode } from "./message";
import { Starters } from "./starters";
import type { ChatStore } from "./store";

/** This many pixels from the end still count as the end. */
const NEAR = 40;

export class MessageLog {
  readonly node = el("div", "oj-messages", { role: "log", tabindex: "0" });
  readonly #earlier = el("div", "oj-facts oj-earlier");
  readonly #empty: Starters;
  readonly #nodes = new Map<number, MessageNode>();
  #path: number[] = [];
  #conversation = 0;
  /** Whether the end stays in sight as the log grows or becomes narrower. */
  #following = true;

  /**
   * `focusFallback` takes the focus if the element that had it is removed; `ask` sends a starter
   * prompt.
   */
  constructor(
    private readonly store: ChatStore,
    private readonly focusFallback: () => void,
    ask: (text: string) => void,
    signal: AbortSignal,
  ) {
    const { node } = this;
    node.setAttribute("aria-label", "Conversation");
    this.#empty = new Starters(store, ask);
    node.append(this.#earlier, this.#empty.node);
    const scrolled = () => {
      this.#following = node.scrollHeight - node.scrollTop - node.clientHeight < NEAR;
    };
    node.addEventListener("scroll", scrolled, { signal, passive: true });
  }

  /** Scroll to the end with the next redraw, after the user sent a message. */
  follow(): void {
    this.#following = true;
  }

  /** Whether the open run is one of an answer shown here. */
  get showsRun(): boolean {
    return [...this.#nodes.values()].some((each) => each.showsRun);
  }

  /** `usable`: whether a message can be sent. */
  draw(usable: boolean): void {
    const { state } = this.store;
    const { node } = this;
    // Screen readers read an answer once, when it is complete, and not each time it grows.
    node.setAttribute("aria-live", state.running ? "off" : "polite");
    const lost = this.#removeOld();
    this.#drawMessages();
    if (lost) this.#refocus(lost);
    this.#empty.draw(usable);
    this.#earlier.hidden = state.earlier === 0;
    const earlier = `${integer(state.earlier)} earlier messages are not shown; Export saves them.`;
    setText(this.#earlier, earlier);
    if (this.#following) node.scrollTop = node.scrollHeight;
  }

  /**
   * Remove messages that are no longer shown; returns where the focus was, if it was in one of
   * them.
   */
  #removeOld(): { index: number; name: string } | null {
    const { state } = this.store;
    const other = state.conversation !== this.#conversation;
    this.#conversation = state.conversation;
    if (other) this.#following = true;
    const kept = new Set(other ? [] : state.messages.map((message) => message.id));
    let lost = null;
    for (const [id, shown] of this.#nodes) {
      if (kept.has(id)) continue;
      const name = shown.focused;
      if (name) lost = { index: this.#path.indexOf(id), name };
      shown.node.remove();
      this.#nodes.delete(id);
    }
    return lost;
  }

  /** Add new messages, and draw all of them in order. */
  #drawMessages(): void {
    const { state } = this.store;
    this.#path = state.messages.map((message) => message.id);
    let last: Element = this.#empty.node;
    for (const message of state.messages) {
      const known = this.#nodes.get(message.id);
      const shown = known ?? new MessageNode(this.store, message);
      if (!known) this.#nodes.set(message.id, shown);
      if (last.nextElementSibling !== shown.node) last.after(shown.node);
      shown.draw(message, state.running, state.reading);
      last = shown.node;
    }
  }

  /**
   * Focus the same button of the message now in that place, or the message box during an answer.
   */
  #refocus({ index, name }: { index: number; name: string }): void {
    const { state } = this.store;
    const here = this.#nodes.get(state.messages[index]?.id);
    if (name === "other" || state.running || !here?.focus(name)) this.focusFallback();
  }
}
