// Lookups and misses of each layer, over the tokens decoded up to a step.

import type { RunState } from "./state";

/** Steps between two sums that are kept, so that no count goes through all steps. */
const EVERY = 64;

export class LayerMisses {
  lookups: number[] = [];
  misses: number[] = [];
  /** The sums before each EVERY-th step, from the first whose routing is kept. */
  #sums: [number[], number[]][] = [];
  #from = 0;
  #epoch = -1;

  constructor(private readonly state: RunState) {}

  /** Count the decode steps up to `step`, as far as their routing is kept. */
  count(step: number): this {
    const { layers, experts, routing, steps, epoch } = this.state;
    const sums = this.#sums;
    if (epoch !== this.#epoch || routing.first !== this.#from) {
      [this.#epoch, this.#from] = [epoch, routing.first];
      sums.length = 0;
    }
    const n = Math.min(step + 1, routing.end) - this.#from;
    let at = Math.min(Math.max(0, sums.length - 1), Math.floor(Math.max(0, n) / EVERY)) * EVERY;
    const zeros = () => new Array<number>(layers).fill(0);
    const [lookups, misses] = sums[at / EVERY] ?? [zeros(), zeros()];
    [this.lookups, this.misses] = [[...lookups], [...misses]];
    for (; ; at += 1) {
      if (at === sums.length * EVERY) sums.push([[...this.lookups], [...this.misses]]);
      if (at >= n) return this;
      if (!steps.at("phase", this.#from + at)) continue;
      routing.forEach(this.#from + at, experts, (index, hit) => {
        const layer = Math.floor(index / experts);
        this.lookups[layer] += 1;
        if (!hit) this.misses[layer] += 1;
      });
    }
  }

  /** The layer with the most misses. */
  get most(): number {
    return Math.max(0, this.misses.indexOf(Math.max(...this.misses)));
  }
}
