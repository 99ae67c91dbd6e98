// A call of a tool in an answer: its name and arguments, and what becomes of it. It runs only after a
// click, unless the chat runs all of them.

import { el, setText } from "../widget/dom";
import { integer } from "../widget/format";
import { button } from "./button";
import type { ChatStore, Message, ToolCall } from "./store";

const STATES: Record<ToolCall["state"], string> = {
  proposed: "waits for you",
  running: "running…",
  done: "done",
  failed: "failed",
  refused: "refused",
};

export class ToolCard {
  readonly node: HTMLElement;
  readonly #name = el("strong", "oj-call-name");
  readonly #state = el("span", "oj-facts", { role: "status" });
  readonly #run: HTMLButtonElement;
  readonly #refuse: HTMLButtonElement;
  readonly #goOn: HTMLButtonElement;
  readonly #input = el("pre", "", { tabindex: "0", "aria-label": "Arguments" });
  readonly #outcome = el("details", "");
  readonly #summary = el("summary", "");
  readonly #output = el("pre", "", { tabindex: "0", "aria-label": "Result" });
  #last: ToolCall["state"] | "" = "";

  constructor(
    private readonly store: ChatStore,
    private message: Message,
    private call: ToolCall,
  ) {
    this.#run = button("Run", "Run this function with these arguments", () => this.#decide(true));
    this.#run.classList.add("oj-primary");
    this.#refuse = button("Refuse", "Do not run it, and tell the model so", () =>
      this.#decide(false),
    );
    this.#goOn = button("Answer anyway", "Let the model read this error and go on", () =>
      this.#decide(true),
    );
    const buttons = el("span", "oj-actions", {}, this.#run, this.#refuse, this.#goOn);
    this.#outcome.append(this.#summary, this.#output);
    this.node = el(
      "div",
      "oj-call",
      { role: "group", tabindex: "-1" },
      el("div", "oj-call-head", {}, this.#name, this.#state, buttons),
      this.#input,
      this.#outcome,
    );
  }

  /** `usable`: whether the call can be decided on; `last`: whether the model waits for no other. */
  draw(message: Message, call: ToolCall, usable: boolean, last: boolean): void {
    [this.message, this.call] = [message, call];
    const { state, result } = call;
    const name = call.name || "unreadable call";
    this.node.dataset.state = state;
    this.node.setAttribute("aria-label", `Tool call ${name}`);
    setText(this.#name, name);
    setText(this.#state, STATES[state] ?? state);
    setText(this.#input, JSON.stringify(call.arguments, null, 2));
    this.#input.hidden = this.#input.textContent === "{}";
    this.#run.hidden = this.#refuse.hidden = state !== "proposed";
    this.#goOn.hidden = !(state === "failed" && last);
    for (const each of [this.#run, this.#refuse, this.#goOn]) each.disabled = !usable;
    this.#outcome.hidden = !result;
    setText(this.#output, result);
    const what =
      state === "done" ? "Result" : state === "failed" ? "Error" : "What the model reads";
    setText(this.#summary, `${what} · ${integer(result.length)} characters`);
    // An error is in sight; once, so that it can be folded.
    if (state !== this.#last && state === "failed") this.#outcome.open = true;
    this.#last = state;
  }

  #decide(allow: boolean): void {
    const [{ id }, { id: call }] = [this.message, this.call];
    this.node.focus(); // the button that has the focus vanishes
    void this.store.request({ type: "call", message: id, call, allow });
  }
}
