// One message of the chat, with its buttons and facts.

import { el, focusBeside, setText } from "../widget/dom";
import { bytes, integer, percent, plural, short } from "../widget/format";
import { button } from "./button";
import { copyFrom, render } from "./markdown";
import type { ChatStore, Message, PromptProgress } from "./store";
import { ThinkingBlock } from "./thinking";
import { ToolCard } from "./tool-card";

/** What the facts say about an answer that did not end by itself. */
const ENDED: Record<string, string> = {
  length: "cut off at the token limit",
  interrupted: "stopped",
  error: "failed",
};

export class MessageNode {
  readonly node: HTMLElement;
  readonly #thinking: ThinkingBlock;
  readonly #body = el("div", "oj-prose oj-body", { dir: "auto" });
  readonly #calls = el("div", "oj-calls");
  readonly #cards: ToolCard[] = [];
  readonly #progress = el("progress", "oj-prompt-progress", { "aria-label": "Prompt read" });
  readonly #note = el("div", "oj-problem");
  readonly #facts = el("span", "oj-facts");
  readonly #branches = el("span", "oj-branches", {
    role: "group",
    "aria-label": "Versions",
  });
  readonly #place = el("span", "oj-place", { "aria-live": "polite" });
  readonly #before: HTMLButtonElement;
  readonly #after: HTMLButtonElement;
  readonly #copy: HTMLButtonElement;
  readonly #change: HTMLButtonElement;
  readonly #runButton: HTMLButtonElement;
  #editor: HTMLElement | null = null;
  /** The text in sight, and how many modules it was drawn with. */
  #shown: string | null = null;
  #drawnWith = 0;
  #message: Message;

  constructor(
    private readonly store: ChatStore,
    message: Message,
  ) {
    this.#message = message;
    this.#thinking = new ThinkingBlock(store);
    const user = message.role === "user";
    this.#before = button("‹", "Earlier version", () => this.#step(-1));
    this.#after = button("›", "Later version", () => this.#step(1));
    this.#branches.append(this.#before, this.#place, this.#after);
    this.#copy = button("Copy", "Copy this message", () => {
      void copyFrom(this.#copy, this.#message.text);
    });
    this.#change = user
      ? button("Edit", "Change this message and ask again, on a new branch", () => this.#edit())
      : button("Try again", AGAIN, () => this.#again());
    this.#runButton = button("Run", "", () => this.#toggleRun());
    const actions = el("div", "oj-actions", {}, this.#copy, this.#change, this.#branches);
    if (!user) actions.append(this.#runButton, this.#facts);
    this.node = el(
      "article",
      `oj-message oj-${message.role}`,
      { "aria-label": user ? "You" : "Answer" },
      ...(user ? [] : [this.#thinking.node]),
      this.#body,
      ...(user ? [] : [this.#calls]),
      this.#progress,
      this.#note,
      actions,
    );
  }

  draw(message: Message, running: boolean, reading?: PromptProgress | null): void {
    this.#message = message;
    const writing = message.ended === "running";
    this.node.classList.toggle("oj-writing", writing);
    this.node.setAttribute("aria-busy", String(writing));
    const { count } = this.store.modules;
    if (message.text !== this.#shown || count !== this.#drawnWith) this.#drawText(message);
    this.#thinking.draw(message);
    this.#drawCalls(message);
    const calls = message.tool_calls?.length;
    const begun = message.text || message.thinking?.text || calls;
    const progress = writing && !begun && reading?.message === message.id ? reading : null;
    const wait = begun ? "" : progress ? progressText(progress) : "Reading…";
    this.#body.dataset.empty = writing ? wait : calls ? "" : "No text was generated.";
    this.#progress.hidden = !progress;
    if (progress) [this.#progress.max, this.#progress.value] = [progress.of, progress.read];
    setText(this.#note, message.note);
    this.#note.hidden = !message.note;
    this.#copy.disabled = !message.text;
    this.#change.disabled = running;
    const { siblings } = message;
    this.#branches.hidden = siblings.length < 2;
    const at = siblings.indexOf(message.id);
    setText(this.#place, `${at + 1}/${siblings.length}`);
    this.#before.disabled = at <= 0;
    this.#after.disabled = at >= siblings.length - 1;
    const { run } = message.numbers;
    this.#runButton.hidden = !run;
    setText(this.#runButton, `Run ${run}`);
    this.#runButton.title = `Show its routing and reads; in Python: chat.run(${run})`;
    this.#runButton.setAttribute("aria-expanded", String(this.showsRun));
    setText(this.#facts, factsOf(message));
  }

  /** Whether the open run view is this answer's. */
  get showsRun(): boolean {
    return this.#message.numbers.run === this.store.runShown.run && !this.#runButton.hidden;
  }

  /** The name of the button that has the focus, "other" for another element inside, "" for none. */
  get focused(): string {
    const activeElement = focusBeside(this.node);
    const found = this.#buttons().find(([, each]) => each === activeElement);
    return found?.[0] ?? (this.node.contains(activeElement) ? "other" : "");
  }

  /** Focus the button of that name, or else another usable one; false if there is none. */
  focus(name: string): boolean {
    const usable = this.#buttons().filter(([, each]) => !each.disabled && each.offsetParent);
    const [, node] = usable.find(([each]) => each === name) ?? usable[0] ?? [];
    node?.focus();
    return !!node;
  }

  #buttons(): [string, HTMLButtonElement][] {
    const before = this.#before,
      after = this.#after,
      copy = this.#copy,
      change = this.#change,
      runButton = this.#runButton;
    return [...Object.entries({ before, after, change, runButton, copy })];
  }

  #drawText(message: Message): void {
    [this.#shown, this.#drawnWith] = [message.text, this.store.modules.count];
    if (message.role === "user") setText(this.#body, message.text);
    else this.#body.replaceChildren(render(message.text, this.store.modules));
  }

  #drawCalls(message: Message): void {
    const calls = message.tool_calls ?? [];
    const { state, closed } = this.store;
    // Another may be decided on while one of them runs.
    const free = !state.running || calls.some((each) => each.state === "running");
    const open = calls.some((each) => each.state === "proposed" || each.state === "running");
    const last = state.messages.at(-1)?.id === message.id && !state.running && !open;
    for (const [n, call] of calls.entries()) {
      if (!this.#cards[n]) {
        this.#cards[n] = new ToolCard(this.store, message, call);
        this.#calls.append(this.#cards[n].node);
      }
      this.#cards[n].draw(message, call, free && !closed, last);
    }
    this.#calls.hidden = !calls.length;
  }

  #step(by: number): void {
    const { siblings, id } = this.#message;
    const to = siblings[siblings.indexOf(id) + by];
    if (to) this.store.send({ type: "choose", message: to });
  }

  #again(): void {
    void this.store.request({ type: "regenerate", message: this.#message.id });
  }

  #edit(): void {
    if (this.#editor) return;
    const box = el("textarea", "oj-input", { "aria-label": "Edit your message", rows: "3" });
    box.value = this.#message.text;
    const send = button("Send", "Send the changed message", () => void this.#sendEdit(box, send));
    const cancel = button("Cancel", "Keep the message as it was", () => this.#endEdit());
    send.classList.add("oj-primary");
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#endEdit();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        void this.#sendEdit(box, send);
      } else return;
      event.stopPropagation();
    });
    this.#editor = el("div", "oj-editor", {}, box, el("div", "oj-actions", {}, send, cancel));
    this.#body.after(this.#editor);
    this.#body.hidden = true;
    box.focus();
  }

  async #sendEdit(box: HTMLTextAreaElement, send: HTMLButtonElement): Promise<void> {
    if (!box.value.trim()) return;
    send.disabled = true;
    const { id } = this.#message;
    const accepted = await this.store.request({ type: "edit", message: id, text: box.value });
    send.disabled = false;
    if (accepted) this.#endEdit();
  }

  #endEdit(): void {
    const focused = this.#editor?.contains(focusBeside(this.node));
    this.#editor?.remove();
    this.#editor = null;
    this.#body.hidden = false;
    if (focused) this.#change.focus();
  }

  #toggleRun(): void {
    const { run } = this.#message.numbers;
    this.store.send({ type: "run", run: this.showsRun ? 0 : run });
  }
}

/** The tooltip of Try again. */
const AGAIN =
  "Write another answer beside this one; at temperature 0 (see Settings) it would be the same";

const progressText = ({ read, of }: PromptProgress) =>
  `Reading the prompt: ${integer(read)} of ${plural(of, "token")}`;

function factsOf({ numbers, ended }: Message): string {
  const parts: string[] = [];
  if (numbers.generated !== undefined) parts.push(plural(numbers.generated, "token"));
  if (numbers.tokens_per_second) parts.push(`${short(numbers.tokens_per_second)} tokens/s`);
  const rate = numbers.decode_hit_rate;
  if (rate !== undefined) parts.push(`hit rate in decode ${percent(rate)}`);
  if (numbers.bytes_read !== undefined) parts.push(`${bytes(numbers.bytes_read)} read`);
  if (numbers.prompt !== undefined) {
    const reused = numbers.reused ? `, ${integer(numbers.reused)} of them from the KV cache` : "";
    parts.push(`prompt of ${plural(numbers.prompt, "token")}${reused}`);
  }
  if (ENDED[ended]) parts.push(ENDED[ended]);
  return parts.join(" · ");
}
