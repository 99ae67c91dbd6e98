// The experts after some earlier steps, kept so that a jump of the playhead need not walk far.

import type { ExpertStates, RunState } from "./state";

export type Checkpoint = Pick<
  ExpertStates,
  "counts" | "layerTotals" | "resident" | "residentCount"
>;

/** Steps between two checkpoints; doubled whenever there would be more than MOST. */
const EVERY = 256;
const MOST = 64;

const all = new WeakMap<RunState, Checkpoints>();

export function copyOf({ counts, layerTotals, resident, residentCount }: Checkpoint): Checkpoint {
  const copies = { counts: counts.slice(), layerTotals: layerTotals.slice() };
  return { ...copies, resident: resident.slice(), residentCount };
}

export class Checkpoints {
  every = EVERY;
  readonly #kept = new Map<number, Checkpoint>();
  #epoch = -1;

  private constructor(private readonly state: RunState) {}

  /** The checkpoints of a run, shared by all that show it. */
  static of(state: RunState): Checkpoints {
    const known = all.get(state) ?? new Checkpoints(state);
    all.set(state, known);
    return known;
  }

  get size(): number {
    return this.#kept.size;
  }

  /** Whether a checkpoint belongs after `step` and is not there yet. */
  wants(step: number): boolean {
    this.#refresh();
    return step % this.every === 0 && !this.#kept.has(step);
  }

  /** Keep a copy of the experts after `step`; those before the step `from` are no longer needed. */
  keep(step: number, experts: Checkpoint, from: number): void {
    this.#kept.set(step, copyOf(experts));
    if (this.#kept.size > MOST) this.every *= 2;
    for (const at of this.#kept.keys()) if (at < from || at % this.every) this.#kept.delete(at);
  }

  /** The checkpoint nearest to `step`, not before the step `from`, if it is nearer than `limit`. */
  nearest(step: number, from: number, limit: number): [number, Checkpoint] | null {
    this.#refresh();
    let found: [number, Checkpoint] | null = null;
    for (const each of this.#kept) {
      const distance = Math.abs(each[0] - step);
      if (each[0] < from || distance >= limit) continue;
      [found, limit] = [each, distance];
    }
    return found;
  }

  /** Forget the checkpoints of what a snapshot has replaced. */
  #refresh(): void {
    if (this.#epoch === this.state.epoch) return;
    this.#epoch = this.state.epoch;
    this.every = EVERY;
    this.#kept.clear();
  }
}
