// Lookups and misses of each layer, over the tokens decoded up to a step.

import type { RunState } from "./state";

export class LayerMisses {
  lookups: number[] = [];
  misses: number[] = [];
  private to = 0;
  private epoch = -1;

  constructor(private readonly state: RunState) {}

  /** Count the decode steps up to `step`, as far as their routing is kept. */
  count(step: number): this {
    const { layers, routing, steps, epoch } = this.state;
    if (epoch !== this.epoch || step + 1 < this.to) {
      this.lookups = new Array(layers).fill(0);
      this.misses = [...this.lookups];
      this.epoch = epoch;
      this.to = 0;
    }
    const end = Math.min(step + 1, routing.end);
    for (let at = Math.max(this.to, routing.first); at < end; at += 1) {
      for (let layer = 0; steps.at("phase", at) && layer < layers; layer += 1) {
        const [hits, lookups] = this.state.layerHits(at, layer);
        this.lookups[layer] += lookups;
        this.misses[layer] += lookups - hits;
      }
    }
    this.to = Math.max(this.to, end);
    return this;
  }

  /** The layer with the most misses. */
  get most(): number {
    return Math.max(0, this.misses.indexOf(Math.max(...this.misses)));
  }
}
