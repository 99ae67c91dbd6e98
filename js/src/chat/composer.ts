// Where a message is written, sent, and the answer stopped.

import { el, setText } from "../widget/dom";
import { insist, stop } from "../widget/stop";
import type { ChatStore } from "./store";

const PATIENCE_MS = 3_000;
const SLOW = "The kernel has not taken this yet; it may be busy with a cell.";
const GONE = "The kernel is gone; this is what had arrived until then.";
const goOn = (model = "the model") =>
  `To go on, run the cell that loads ${model}, then this cell: it makes a new chat.`;

export class Composer {
  readonly node: HTMLElement;
  private readonly box = el("textarea", "oj-input", { "aria-label": "Message", rows: "1" });
  private readonly sendButton = el("button", "oj-button oj-primary", { type: "button" }, "Send");
  private readonly stopButton = el("button", "oj-button oj-stop", { type: "button" }, "Stop");
  private readonly hint = el("div", "oj-hint", { role: "status" });
  private pending = false;
  private slow = "";
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly store: ChatStore,
    private readonly sent: () => void,
    signal: AbortSignal,
  ) {
    this.box.placeholder = "Ask something";
    this.box.value = store.draft;
    this.box.addEventListener("input", () => store.setDraft(this.box.value), { signal });
    this.box.addEventListener("keydown", (event) => this.onKey(event), { signal });
    this.sendButton.addEventListener("click", () => void this.send(), { signal });
    this.stopButton.addEventListener("click", () => this.stop(), { signal });
    signal.addEventListener("abort", () => clearTimeout(this.timer));
    const row = el("div", "oj-row", {}, this.box, this.sendButton, this.stopButton);
    this.node = el("div", "oj-composer", {}, row, this.hint);
  }

  focus(): void {
    this.box.focus();
  }

  draw(connected: boolean): void {
    const { state, closed } = this.store;
    if (this.box.value !== this.store.draft) this.box.value = this.store.draft;
    this.fit();
    const usable = connected && !closed;
    this.box.disabled = !usable;
    this.sendButton.disabled = !usable || this.pending || !this.box.value.trim();
    const stops = state.running && usable;
    const focused = (this.node.getRootNode() as Document).activeElement;
    this.stopButton.hidden = !stops;
    this.sendButton.hidden = stops;
    const gone = stops ? this.sendButton : this.stopButton;
    if (focused === gone) this.box.focus();
    if (!state.running && !this.pending) this.calm();
    setText(this.hint, this.words(connected, closed));
  }

  private words(connected: boolean, closed: boolean): string {
    if (closed) return "This chat was closed.";
    if (!connected) return `${GONE} ${goOn(this.store.about.model)}`;
    if (this.slow) return this.slow;
    if (this.store.state.elsewhere) return "An answer is being written in another conversation.";
    return this.store.state.running
      ? "Writing… Esc stops"
      : "Enter sends · Shift+Enter begins a new line";
  }

  /** As high as its text, up to a limit that the style sheet sets. */
  private fit(): void {
    this.box.style.height = "auto";
    if (this.box.scrollHeight) this.box.style.height = `${this.box.scrollHeight + 2}px`;
  }

  private onKey(event: KeyboardEvent): void {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      void this.send();
    } else if (event.key === "Escape" && this.store.state.running) {
      event.preventDefault();
      this.stop();
    }
  }

  private async send(): Promise<void> {
    const text = this.box.value;
    if (this.pending || this.store.state.running || !text.trim()) return;
    this.pending = true;
    this.expect(SLOW);
    this.store.notify();
    const taken = await this.store.request({ type: "send", text });
    this.pending = false;
    this.calm();
    // Refused: the text stays where it is. Taken: what was typed since stays.
    if (taken && this.store.draft === text) this.store.clearDraft();
    if (taken) this.sent();
    this.store.notify();
  }

  /** A cell that waits for the answer reads no message: then only an interrupt arrives. */
  private stop(): void {
    this.expect(`${SLOW} Interrupt it from the notebook to stop both.`);
    const ask = () => this.store.send({ type: "stop" });
    const written = this.store.state.messages.at(-1)?.id;
    const needed = () =>
      this.store.state.running && this.store.state.messages.at(-1)?.id === written;
    if (this.store.blocking) void stop(this.store.kernelId, ask, needed);
    else insist(ask, needed);
  }

  private expect(words: string): void {
    this.calm();
    this.timer = setTimeout(() => {
      this.slow = words;
      this.store.notify();
    }, PATIENCE_MS);
  }

  private calm(): void {
    clearTimeout(this.timer);
    this.slow = "";
  }
}
