// The experts that the newest tokens used, fading as time passes.
//
// A step's experts begin to fade when the step is reported. If several steps are reported together,
// each began earlier than the next by the next one's time. It knows no colours: an expert's stage
// is a number from 0 (not in use) to STAGES (just used).

import type { RunState } from "./state";

export const STAGES = 6;

/** Milliseconds until an expert has faded. */
export const FADE_MS = 600;

/** A larger jump shows no fading: the user scrubbed, or the page was hidden. */
const MAX_STEPS = 8;

export class RecencyFade {
  /** The stage of each expert, at layer * experts + expert. */
  stages = new Uint8Array(0);
  private usedAt = new Float64Array(0);
  private active: number[] = [];
  private step = -1;
  private epoch = -1;

  constructor(private readonly state: RunState) {}

  /** Whether any expert still fades. */
  get fading(): boolean {
    return this.active.length > 0;
  }

  /** Move to the run after `step`, at `now` in ms. */
  show(step: number, now: number): void {
    const { state } = this;
    const size = state.layers * state.experts;
    if (this.epoch !== state.epoch || this.stages.length !== size) this.reset(size);
    const from = this.epoch === state.epoch ? this.step + 1 : step + 1;
    this.epoch = state.epoch;
    this.step = step;
    if (step - from < MAX_STEPS) this.begin(from, step, now);
  }

  /** Update the stages to the time `now`; returns whether any stage changed. */
  fade(now: number): boolean {
    let [kept, changed] = [0, false];
    for (const index of this.active) {
      const left = 1 - (now - this.usedAt[index]) / FADE_MS;
      const stage = left > 0 ? Math.min(STAGES, Math.ceil(left * STAGES)) : 0;
      if (stage !== this.stages[index]) [this.stages[index], changed] = [stage, true];
      if (stage) this.active[kept++] = index;
    }
    this.active.length = kept;
    return changed;
  }

  /** End the fading of all experts. */
  clear(): void {
    this.stages.fill(0);
    this.active = [];
  }

  private reset(size: number): void {
    this.stages = new Uint8Array(size);
    this.usedAt = new Float64Array(size);
    this.active = [];
  }

  private begin(from: number, to: number, now: number): void {
    let at = now;
    // Backwards: the newest step begins now, each one before it earlier by the later one's time.
    for (let step = to; step >= from; step -= 1) {
      this.state.routing.forEach(step, this.state.experts, (index) => {
        if (!this.stages[index]) this.active.push(index);
        if (!this.stages[index] || this.usedAt[index] < at) this.usedAt[index] = at;
        this.stages[index] = STAGES;
      });
      at -= this.state.steps.at("tokenMs", step) || 0;
    }
  }
}
