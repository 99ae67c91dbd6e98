// What the model thought before its answer: open while it is written, folded once the answer begins.
// Whoever opens or folds it by hand decides from then on.

import { el, focusBeside, setText } from "../widget/dom";
import { duration, plural } from "../widget/format";
import { render } from "./markdown";
import type { ChatStore, Message } from "./store";

export class ThinkingBlock {
  readonly node = el("details", "oj-thinking");
  readonly #summary = el("summary", "");
  readonly #body = el("div", "oj-prose oj-thoughts", { dir: "auto" });
  #byHand = false;
  #text = "";
  /** What is in sight: the text, and how many modules it was drawn with. */
  #shown = "";

  constructor(private readonly store: ChatStore) {
    this.node.append(this.#summary, this.#body);
    this.#summary.addEventListener("click", () => {
      this.#byHand = true;
    });
    this.node.addEventListener("toggle", () => this.#drawText());
  }

  draw({ thinking, text, ended, tool_calls }: Message): void {
    this.#text = thinking?.text ?? "";
    this.node.hidden = !this.#text;
    if (!this.#text) return;
    const answered = !!text || !!tool_calls?.length;
    const now = ended === "running" && !answered;
    this.node.classList.toggle("oj-now", now);
    setText(this.#summary, now ? "Thinking…" : summaryOf(thinking!));
    if (!this.#byHand && this.node.open === answered) this.#fold(answered);
    this.#drawText();
  }

  #fold(folded: boolean): void {
    // What has the focus may not vanish.
    if (folded && this.#body.contains(focusBeside(this.node))) this.#summary.focus();
    this.node.open = !folded;
  }

  /** Draw the text, if it is open and something changed. */
  #drawText(): void {
    const { modules } = this.store;
    const wanted = `${modules.count} ${this.#text}`;
    if (!this.node.open || wanted === this.#shown) return;
    this.#shown = wanted;
    this.#body.replaceChildren(render(this.#text, modules));
  }
}

/** Short thinking in three digits: a small model thinks for less than a second. */
const timeOf = (seconds: number): string =>
  seconds < 60 ? `${+seconds.toPrecision(3)}\u202fs` : duration(seconds);

function summaryOf({ seconds, tokens }: NonNullable<Message["thinking"]>): string {
  const time = seconds ? ` for ${timeOf(seconds)}` : "";
  return `Thought${time}${tokens ? ` · ${plural(tokens, "token")}` : ""}`;
}
