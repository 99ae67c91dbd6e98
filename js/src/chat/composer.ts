// The message box, with buttons to send a message and to stop an answer.

import { el, focusBeside, setText } from "../widget/dom";
import { repeatWhile, stop } from "../widget/stop";
import type { ChatStore } from "./store";

/** A message that the kernel has not accepted after this time is slow. */
const SLOW_MS = 3_000;
const SLOW = "The kernel has not answered yet; it may be busy with a cell.";
const GONE = "Kernel disconnected.";
const goOn = (model = "the model") =>
  `Run the cell that loads ${model}, then this cell again to continue.`;

export class Composer {
  readonly node: HTMLElement;
  readonly #box = el("textarea", "oj-input", { "aria-label": "Message", rows: "1" });
  readonly #sendButton = el("button", "oj-button oj-primary", { type: "button" }, "Send");
  readonly #stopButton = el("button", "oj-button oj-stop", { type: "button" }, "Stop");
  readonly #hint = el("div", "oj-hint", { role: "status" });
  #pending = false;
  /** The hint about a slow kernel, "" for none. */
  #slow = "";
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly store: ChatStore,
    private readonly sent: () => void,
    signal: AbortSignal,
  ) {
    this.#box.placeholder = "Ask something";
    this.#box.value = store.draft;
    this.#box.addEventListener("input", () => store.setDraft(this.#box.value), { signal });
    this.#box.addEventListener("keydown", (event) => this.#onKey(event), { signal });
    this.#sendButton.addEventListener("click", () => void this.#send(), { signal });
    this.#stopButton.addEventListener("click", () => this.#stop(), { signal });
    signal.addEventListener("abort", () => clearTimeout(this.#timer));
    const row = el("div", "oj-row", {}, this.#box, this.#sendButton, this.#stopButton);
    this.node = el("div", "oj-composer", {}, row, this.#hint);
  }

  focus(): void {
    this.#box.focus();
  }

  draw(connected: boolean): void {
    const { state, closed } = this.store;
    if (this.#box.value !== this.store.draft) this.#box.value = this.store.draft;
    this.#fit();
    const usable = connected && !closed;
    this.#box.disabled = !usable;
    this.#sendButton.disabled = !usable || this.#pending || !this.#box.value.trim();
    const stoppable = state.running && usable;
    const focused = focusBeside(this.node);
    this.#stopButton.hidden = !stoppable;
    this.#sendButton.hidden = stoppable;
    const hidden = stoppable ? this.#sendButton : this.#stopButton;
    if (focused === hidden) this.#box.focus();
    if (!state.running && !this.#pending) this.#clearSlow();
    setText(this.#hint, this.#hintText(connected, closed));
  }

  #hintText(connected: boolean, closed: boolean): string {
    if (closed) return "This chat was closed.";
    if (!connected) return `${GONE} ${goOn(this.store.info.model)}`;
    if (this.#slow) return this.#slow;
    if (this.store.state.elsewhere) return "An answer is being written in another conversation.";
    return this.store.state.running
      ? "Writing… Esc stops"
      : "Enter sends · Shift+Enter begins a new line";
  }

  /** Make the box as high as its text, up to the limit in the style sheet. */
  #fit(): void {
    this.#box.style.height = "auto";
    if (this.#box.scrollHeight) this.#box.style.height = `${this.#box.scrollHeight + 2}px`;
  }

  #onKey(event: KeyboardEvent): void {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      void this.#send();
    } else if (event.key === "Escape" && this.store.state.running) {
      event.preventDefault();
      this.#stop();
    }
  }

  /** Send a starter prompt as if it had been typed; it stays in the box if it is refused. */
  ask(text: string): void {
    this.store.setDraft(text);
    this.#box.value = text;
    void this.#send();
  }

  async #send(): Promise<void> {
    const text = this.#box.value;
    if (this.#pending || this.store.state.running || !text.trim()) return;
    this.#pending = true;
    this.#warnIfSlow(SLOW);
    this.store.notify();
    const accepted = await this.store.request({ type: "send", text });
    this.#pending = false;
    this.#clearSlow();
    // A refused text stays in the box, and so does what was typed since an accepted one.
    if (accepted && this.store.draft === text) this.store.clearDraft();
    if (accepted) this.sent();
    this.store.notify();
  }

  /**
   * Stop the answer. If a cell waits for it, the kernel reads no messages: only an interrupt works.
   */
  #stop(): void {
    this.#warnIfSlow(`${SLOW} Interrupt it from the notebook to stop both.`);
    const sendStop = () => this.store.send({ type: "stop" });
    const answer = this.store.state.messages.at(-1)?.id;
    const needed = () =>
      this.store.state.running && this.store.state.messages.at(-1)?.id === answer;
    if (this.store.blocking) void stop(this.store.kernelId, sendStop, needed);
    else repeatWhile(needed, sendStop);
  }

  /** Show a hint if the kernel does not react for SLOW_MS. */
  #warnIfSlow(text: string): void {
    this.#clearSlow();
    this.#timer = setTimeout(() => {
      this.#slow = text;
      this.store.notify();
    }, SLOW_MS);
  }

  #clearSlow(): void {
    clearTimeout(this.#timer);
    this.#slow = "";
  }
}
