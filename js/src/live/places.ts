// Where each expert in RAM stands in the eviction order; without the order, how long it is unused.

import { same } from "../widget/same";
import { type EvictionOrder, EXACT, RELEARNED, UNKNOWN } from "./frames";
import type { ExpertStates, RunState } from "./state";

/** Shades of the scale from "stays longest" (1) to "next out" (SHADES); 0 is an expert on SSD. */
export const SHADES = 32;

/** Tokens looked back for the last use of an expert, where the order is not known. */
const LOOK_BACK = 256;

/** What the shades mean. */
export type Scale = "exact" | "relearned" | "unknown" | "recency";

export class Places {
  scale: Scale = "recency";
  /** The place of each expert, 0 for the next to be evicted; -1 where there is none. */
  place = new Int32Array(0);
  /** The shade of each expert. */
  levels = new Uint8Array(0);
  /** The experts that are evicted next, by layer * experts + expert. */
  next: number[] = [];
  #known: readonly unknown[] = [];

  constructor(private readonly state: RunState) {}

  /** Find the places after `step`, at which `experts` are in RAM; returns whether they changed. */
  find(experts: ExpertStates, step: number, order: EvictionOrder | null): boolean {
    const { state } = this;
    const from = [state.epoch, state.seq, experts, step, order, experts.residentCount];
    if (same(from, this.#known)) return false;
    this.#known = from;
    const size = experts.resident.length;
    if (this.levels.length !== size) {
      this.levels = new Uint8Array(size);
      this.place = new Int32Array(size);
    }
    this.next = [];
    this.levels.set(experts.resident); // what is in RAM without a place stays longest
    this.place.fill(-1);
    if (order?.kind === EXACT || order?.kind === RELEARNED) {
      this.scale = order.part ? "recency" : order.kind === EXACT ? "exact" : "relearned";
      this.#byOrder(experts.resident, order);
      if (order.part) this.#byRecency(experts.resident, step);
    } else {
      this.scale = order?.kind === UNKNOWN ? "unknown" : "recency";
      this.#byRecency(experts.resident, step);
    }
    return true;
  }

  #byOrder(resident: Uint8Array, { experts, pinned }: EvictionOrder): void {
    const movable = experts.length - pinned;
    let place = 0;
    for (let i = 0; i < movable; i += 1) {
      const index = experts[i];
      if (!resident[index]) continue; // evicted since then
      if (place < 3) this.next.push(index);
      this.place[index] = place++;
      this.levels[index] = SHADES - Math.floor((i * SHADES) / movable);
    }
  }

  /** From the newest token back: an expert's last use decides, and soon each in RAM had one. */
  #byRecency(resident: Uint8Array, step: number): void {
    const { levels, state } = this;
    const first = Math.max(state.routing.first, step - LOOK_BACK);
    let left = 0;
    for (let i = 0; i < levels.length; i += 1) {
      if (!resident[i]) continue;
      levels[i] = SHADES;
      left += 1;
    }
    const oldest = Math.log(step - first + 2);
    for (let at = step; at >= first && left; at -= 1) {
      const level = Math.max(1, Math.ceil((Math.log(step - at + 1) / oldest) * SHADES));
      if (level === SHADES) return;
      for (const index of state.routing.indices(at, state.experts)) {
        if (!resident[index] || levels[index] !== SHADES) continue;
        levels[index] = level;
        left -= 1;
      }
    }
  }
}
