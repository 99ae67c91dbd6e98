// A control for the size of the engine's cache: how many experts fit in RAM. It can change between
// answers.

import { el, focusBeside, setText } from "../widget/dom";
import { bytes, integer } from "../widget/format";
import type { ChatStore } from "./store";

/** Arrow keys change the size step by step; only the last value within this time is sent. */
const SETTLE_MS = 500;

export class CacheSize {
  readonly node: HTMLElement;
  readonly #slider = el("input", "oj-cache-slider", { type: "range", min: "1" });
  readonly #number = el("input", "oj-input", { type: "number", min: "1" });
  readonly #text = el("div", "oj-facts");
  /** The size that the user chose, until Python has applied or refused it. */
  #wanted: number | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly store: ChatStore,
    signal: AbortSignal,
  ) {
    for (const input of [this.#slider, this.#number]) {
      input.addEventListener("input", () => this.#choose(input.valueAsNumber), { signal });
    }
    signal.addEventListener("abort", () => clearTimeout(this.#timer));
    this.#slider.setAttribute("aria-label", "Experts in RAM");
    const label = el("label", "", { title: "how many experts fit in RAM" });
    label.append(el("span", "", {}, "experts in RAM"), this.#number);
    this.node = el("div", "oj-cache", {}, label, this.#slider, this.#text);
  }

  draw(): void {
    const { slots = 0, experts = 0 } = this.store.info;
    this.node.hidden = !experts;
    const now = this.#wanted ?? slots;
    const disabled = this.store.state.running || this.store.closed;
    for (const input of [this.#slider, this.#number]) {
      input.max = String(experts);
      input.disabled = disabled;
      if (input.valueAsNumber !== now && !this.#typing(input)) input.value = String(now);
    }
    setText(this.#text, this.#describe(now));
  }

  /** Whether the user is typing a number, which must not be overwritten. */
  #typing(input: HTMLInputElement): boolean {
    return this.#wanted !== null && focusBeside(input) === input;
  }

  #describe(now: number): string {
    const { slots = 0, experts = 0, bank_nbytes = 0, token_experts = 0 } = this.store.info;
    const size = slots ? ` (${bytes((bank_nbytes / slots) * now)})` : "";
    const fits = `${integer(now)} of ${integer(experts)} experts fit in RAM${size}`;
    const few =
      now < token_experts
        ? `; one token needs ${integer(token_experts)}, so hardly any are reused`
        : "";
    const when = this.store.state.running
      ? "; you can change this when the answer is complete"
      : "";
    return fits + few + when;
  }

  #choose(slots: number): void {
    clearTimeout(this.#timer);
    this.#wanted = Number.isFinite(slots) ? slots : null;
    this.#timer = setTimeout(() => void this.#send(), SETTLE_MS);
    this.store.notify();
  }

  async #send(): Promise<void> {
    const wanted = this.#wanted;
    if (wanted !== null && wanted !== this.store.info.slots) {
      await this.store.request({ type: "resize", cache_experts: wanted });
    }
    // Another notice reports a refusal; a newer choice has its own timer.
    if (this.#wanted === wanted) this.#wanted = null;
    this.store.notify();
  }
}
