// The generated text as it grows. It is the model's, so it is only ever set as text.

import { el, setText } from "./dom";
import type { Status } from "./host";
import type { RunState } from "./state";

export class TextPane {
  readonly node: HTMLElement;
  private readonly log = el("div", "oj-log", { role: "log", tabindex: "0" });
  private readonly body = document.createTextNode("");
  private readonly hint = el("span", "oj-hint");
  private readonly caret = el("span", "oj-caret", { "aria-hidden": "true" });
  private readonly prompt = el("div", "oj-prompt");
  private shown = 0;
  private epoch = -1;

  constructor() {
    this.log.setAttribute("aria-label", "Generated text");
    this.log.append(this.body, this.caret, this.hint);
    this.node = el("section", "oj-panel oj-text", { "aria-label": "Text" }, this.prompt, this.log);
  }

  draw(state: RunState, status: Status, prompt: string): void {
    setText(this.prompt, prompt);
    this.prompt.hidden = !prompt;
    const following = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 24;
    if (state.textEpoch !== this.epoch) {
      this.body.data = state.text;
      this.epoch = state.textEpoch;
    } else if (state.text.length > this.shown) {
      this.body.appendData(state.text.slice(this.shown));
    }
    const grew = state.text.length !== this.shown;
    this.shown = state.text.length;
    this.caret.hidden = status !== "running" || this.shown === 0;
    setText(this.hint, this.shown ? "" : hint(state, status));
    if (grew && following) this.log.scrollTop = this.log.scrollHeight;
  }
}

function hint(state: RunState, status: Status): string {
  if (status === "waiting") return "Waiting for the run to begin.";
  if (status !== "running") return "No text was generated.";
  return state.promptTokens ? `Reading the prompt, ${state.promptTokens} tokens…` : "Starting…";
}
