// Which experts the newest tokens used, fading as time passes.
//
// A step's experts begin to glow when the step is told; of several steps told together, the earlier
// ones by their own time earlier. It knows no colours: a glow is a number from 0 (out) to STAGES.

import { GLOW_MS } from "./limits";
import type { RunState } from "./state";

export const STAGES = 6;

/** A longer way than this was not played: the run was scrubbed, or the page was away. */
const MOST_STEPS = 8;

export class Glow {
  /** Per expert, at layer * experts + expert. */
  stages = new Uint8Array(0);
  private litAt = new Float64Array(0);
  private lit: number[] = [];
  private step = -1;
  private epoch = -1;

  constructor(private readonly state: RunState) {}

  /** Whether there is anything that still fades. */
  get fading(): boolean {
    return this.lit.length > 0;
  }

  /** Have it show the run after `step`, at `now` in ms. */
  show(step: number, now: number): void {
    const { state } = this;
    const size = state.layers * state.experts;
    if (this.epoch !== state.epoch || this.stages.length !== size) this.clear(size);
    const from = this.epoch === state.epoch ? this.step + 1 : step + 1;
    this.epoch = state.epoch;
    this.step = step;
    if (step - from < MOST_STEPS) this.light(from, step, now);
  }

  /** Let time pass; returns whether any stage is another one. */
  fade(now: number): boolean {
    let [kept, changed] = [0, false];
    for (const index of this.lit) {
      const left = 1 - (now - this.litAt[index]) / GLOW_MS;
      const stage = left > 0 ? Math.min(STAGES, Math.ceil(left * STAGES)) : 0;
      if (stage !== this.stages[index]) [this.stages[index], changed] = [stage, true];
      if (stage) this.lit[kept++] = index;
    }
    this.lit.length = kept;
    return changed;
  }

  /** Nothing glows any more. */
  douse(): void {
    this.stages.fill(0);
    this.lit = [];
  }

  private clear(size: number): void {
    this.stages = new Uint8Array(size);
    this.litAt = new Float64Array(size);
    this.lit = [];
  }

  private light(from: number, to: number, now: number): void {
    let at = now;
    // Backwards: the newest begins now, each one before it by the later one's time earlier.
    for (let step = to; step >= from; step -= 1) {
      this.state.routing.forEach(step, this.state.experts, (index) => {
        if (!this.stages[index]) this.lit.push(index);
        if (!this.stages[index] || this.litAt[index] < at) this.litAt[index] = at;
        this.stages[index] = STAGES;
      });
      at -= this.state.steps.at("tokenMs", step) || 0;
    }
  }
}
