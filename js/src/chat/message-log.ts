// The log of messages. It redraws messages that changed, follows the end, and keeps the focus when
// another version of a message replaces the one that had it.

import { el, setText } from "../widget/dom";
import { integer } from "../widget/format";
import type { WidgetHost } from "../widget/host";
import { MessageNode } from "./message";
import { RunPanel } from "./run-panel";
import type { ChatStore } from "./store";

/** This many pixels from the end still count as the end. */
const NEAR = 40;

export class MessageLog {
  readonly node = el("div", "oj-messages", { role: "log", tabindex: "0" });
  private readonly earlier = el("div", "oj-facts oj-earlier");
  private readonly empty = el("div", "oj-start");
  private readonly run: RunPanel;
  private readonly nodes = new Map<number, MessageNode>();
  private path: number[] = [];
  private conversation = 0;
  /** Whether the end stays in sight as the log grows or becomes narrower. */
  private following = true;

  /** `focusFallback` takes the focus if the element that had it is removed. */
  constructor(
    private readonly store: ChatStore,
    private readonly focusFallback: () => void,
    host: WidgetHost | undefined,
    signal: AbortSignal,
  ) {
    const { node } = this;
    node.setAttribute("aria-label", "Conversation");
    node.append(this.earlier, this.empty);
    this.run = new RunPanel(store, host, signal);
    const scrolled = () => {
      this.following = node.scrollHeight - node.scrollTop - node.clientHeight < NEAR;
    };
    node.addEventListener("scroll", scrolled, { signal, passive: true });
  }

  /** Scroll to the end with the next redraw, after the user sent a message. */
  follow(): void {
    this.following = true;
  }

  draw(): void {
    const { state, info } = this.store;
    const { node } = this;
    // Screen readers read an answer once, when it is complete, and not each time it grows.
    node.setAttribute("aria-live", state.running ? "off" : "polite");
    const lost = this.removeOld();
    this.drawMessages();
    if (lost) this.refocus(lost);
    this.empty.hidden = state.messages.length > 0;
    setText(this.empty, `Ask ${info.model ?? "the model"} something.`);
    this.earlier.hidden = state.earlier === 0;
    const earlier = `${integer(state.earlier)} earlier messages are not shown; Export saves them.`;
    setText(this.earlier, earlier);
    const shown = [...this.nodes.values()].find((each) => each.showsRun);
    // A run that was just opened is shown from its beginning.
    if (this.run.draw(shown?.node)) this.following = false;
    if (this.following) node.scrollTop = node.scrollHeight;
  }

  /**
   * Remove messages that are no longer shown; returns where the focus was, if it was in one of
   * them.
   */
  private removeOld(): { index: number; name: string } | null {
    const { state } = this.store;
    const other = state.conversation !== this.conversation;
    this.conversation = state.conversation;
    if (other) this.following = true;
    const kept = new Set(other ? [] : state.messages.map((message) => message.id));
    let lost = null;
    for (const [id, shown] of this.nodes) {
      if (kept.has(id)) continue;
      const name = shown.focused;
      if (name) lost = { index: this.path.indexOf(id), name };
      shown.node.remove();
      this.nodes.delete(id);
    }
    return lost;
  }

  /** Add new messages, and draw all of them in order. */
  private drawMessages(): void {
    const { state } = this.store;
    this.path = state.messages.map((message) => message.id);
    let last: Element = this.empty;
    for (const message of state.messages) {
      const known = this.nodes.get(message.id);
      const shown = known ?? new MessageNode(this.store, message);
      if (!known) this.nodes.set(message.id, shown);
      if (last.nextElementSibling !== shown.node) last.after(shown.node);
      shown.draw(message, state.running, state.reading);
      last = shown.node;
    }
  }

  /**
   * Focus the same button of the message now in that place, or the message box during an answer.
   */
  private refocus({ index, name }: { index: number; name: string }): void {
    const { state } = this.store;
    const here = this.nodes.get(state.messages[index]?.id);
    if (name === "other" || state.running || !here?.focus(name)) this.focusFallback();
  }
}
