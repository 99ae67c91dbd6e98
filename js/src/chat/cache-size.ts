// The size of the engine's cache as a control: how many experts fit in RAM, changed between answers.

import { el, setText } from "../widget/dom";
import { bytes, integer } from "../widget/format";
import type { ChatStore } from "./store";

/** Arrow keys change it step by step: what counts is where they come to rest. */
const REST_MS = 500;

export class CacheSize {
  readonly node: HTMLElement;
  private readonly slider = el("input", "oj-slider", { type: "range", min: "1" });
  private readonly number = el("input", "oj-input", { type: "number", min: "1" });
  private readonly words = el("div", "oj-facts");
  private wanted: number | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly store: ChatStore,
    signal: AbortSignal,
  ) {
    for (const input of [this.slider, this.number]) {
      input.addEventListener("input", () => this.choose(input.valueAsNumber), { signal });
    }
    signal.addEventListener("abort", () => clearTimeout(this.timer));
    this.slider.setAttribute("aria-label", "Experts in RAM");
    const label = el("label", "", { title: "how many experts are held in RAM" });
    label.append(el("span", "", {}, "experts in RAM"), this.number);
    this.node = el("div", "oj-cache", {}, label, this.slider, this.words);
  }

  draw(): void {
    const { slots = 0, experts = 0 } = this.store.about;
    this.node.hidden = !experts;
    const now = this.wanted ?? slots;
    const disabled = this.store.state.running || this.store.closed;
    for (const input of [this.slider, this.number]) {
      input.max = String(experts);
      input.disabled = disabled;
      if (input.valueAsNumber !== now && !this.typing(input)) input.value = String(now);
    }
    setText(this.words, this.told(now));
  }

  /** Whether somebody is typing in it: half a number must not be corrected. */
  private typing(input: HTMLInputElement): boolean {
    return this.wanted !== null && (input.getRootNode() as Document).activeElement === input;
  }

  private told(now: number): string {
    const { slots = 0, experts = 0, bank_nbytes = 0, token_experts = 0 } = this.store.about;
    const size = slots ? ` (${bytes((bank_nbytes / slots) * now)})` : "";
    const fits = `${integer(now)} of ${integer(experts)} experts fit in RAM${size}`;
    const few =
      now < token_experts
        ? `; one token needs ${integer(token_experts)}: hardly any are reused`
        : "";
    const when = this.store.state.running ? "; can be changed when the answer is written" : "";
    return fits + few + when;
  }

  private choose(slots: number): void {
    clearTimeout(this.timer);
    this.wanted = Number.isFinite(slots) ? slots : null;
    this.timer = setTimeout(() => void this.send(), REST_MS);
    this.store.notify();
  }

  private async send(): Promise<void> {
    const { wanted } = this;
    if (wanted !== null && wanted !== this.store.about.slots) {
      await this.store.request({ type: "resize", cache_experts: wanted });
    }
    // What was refused, or chosen meanwhile, is told elsewhere.
    if (this.wanted === wanted) this.wanted = null;
    this.store.notify();
  }
}
