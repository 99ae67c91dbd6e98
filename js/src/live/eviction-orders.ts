// The eviction order after earlier tokens of a finished run, as Python replays it on request.

import type { EvictionOrder } from "./frames";

/** Orders kept, at most. */
const KEPT = 512;
/** The order is requested this many tokens ahead, so that a replay does not wait for it. */
const AHEAD = 8;

/** Python's answer: one entry per step from `from` on. */
export interface OrdersMessage {
  type: "orders";
  from: number;
  orders: { kind: number; length: number; pinned: number; part?: boolean }[];
}

export class EvictionOrders {
  readonly #orders = new Map<number, EvictionOrder>();
  /** The step requested, while there is no answer. */
  #requested: number | null = null;

  constructor(private readonly request: (step: number) => void) {}

  /** The order after `step`; null until it arrives. */
  after(step: number, last: number): EvictionOrder | null {
    const ahead = Math.min(last, step + AHEAD);
    const missing = [step, ahead].find((each) => !this.#orders.has(each));
    if (missing !== undefined && this.#requested === null) {
      this.#requested = missing;
      this.request(missing);
    }
    return this.#orders.get(step) ?? null;
  }

  take({ from, orders }: OrdersMessage, buffer: DataView | undefined): void {
    this.#requested = null;
    if (this.#orders.size > KEPT) this.#orders.clear();
    let at = 0;
    orders.forEach(({ length, ...rest }, n) => {
      const experts = Uint32Array.from({ length }, (_, i) => buffer!.getUint32(4 * (at + i), true));
      this.#orders.set(from + n, { ...rest, experts, steps: from + n + 1 });
      at += length;
    });
  }
}
