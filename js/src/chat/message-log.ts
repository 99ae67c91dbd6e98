// The messages that are read, as a log: what changed is redrawn, the end is followed, the focus
// stays where it was although another version of a message takes its place.

import { el, setText } from "../widget/dom";
import { integer } from "../widget/format";
import { MessageNode } from "./message";
import type { Host } from "./nested";
import { RunPanel } from "./run-panel";
import type { ChatStore } from "./store";

/** Pixels from the end that still count as the end. */
const NEAR = 40;

export class MessageLog {
  readonly node = el("div", "oj-messages", { role: "log", tabindex: "0" });
  private readonly earlier = el("div", "oj-facts oj-earlier");
  private readonly empty = el("div", "oj-start");
  private readonly run: RunPanel;
  private readonly nodes = new Map<number, MessageNode>();
  private path: number[] = [];
  private conversation = 0;
  /** Whether it stays at its end as it grows, or as it is made narrower. */
  private following = true;

  /** `homeless` takes the focus when what had it is gone. */
  constructor(
    private readonly store: ChatStore,
    private readonly homeless: () => void,
    host: Host | undefined,
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

  /** Go to the end with the next redraw: somebody has just asked something. */
  follow(): void {
    this.following = true;
  }

  draw(): void {
    const { state, about } = this.store;
    const { node } = this;
    // Read out once, when it is whole: an answer that grows would be read over and over.
    node.setAttribute("aria-live", state.running ? "off" : "polite");
    const lost = this.clear();
    this.place();
    if (lost) this.refocus(lost);
    this.empty.hidden = state.messages.length > 0;
    setText(this.empty, `Ask ${about.model ?? "the model"} something.`);
    this.earlier.hidden = state.earlier === 0;
    const left = `${integer(state.earlier)} earlier messages are in the file that Export saves.`;
    setText(this.earlier, left);
    const shown = [...this.nodes.values()].find((each) => each.showsRun);
    // Somebody wants to look at it: its beginning, not the end that it pushes out of sight.
    if (this.run.draw(shown?.node)) this.following = false;
    if (this.following) node.scrollTop = node.scrollHeight;
  }

  /** Take away what is read no more; returns where the focus was, if it was in there. */
  private clear(): { index: number; name: string } | null {
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

  private place(): void {
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

  /** The same button of the message that is there now; while one is written, the message box. */
  private refocus({ index, name }: { index: number; name: string }): void {
    const { state } = this.store;
    const here = this.nodes.get(state.messages[index]?.id);
    if (name === "other" || state.running || !here?.focus(name)) this.homeless();
  }
}
