// The experts as they were after an earlier step: counts, residency.
//
// It starts at the current state and undoes or repeats steps one by one, so that moving by one
// token costs one token. A call in progress is undone with the rest.

import type { ExpertStates, RunState } from "./state";

export class ExpertHistory implements ExpertStates {
  counts = new Uint32Array(0);
  resident = new Uint8Array(0);
  layerTotals = new Float64Array(0);
  maxCount = 0;
  residentCount = 0;
  chosenCount = 0;
  /** The experts are as they were after this step. */
  step = -1;
  private epoch = -1;
  /** The moves before this one are applied. */
  private moves = 0;

  constructor(private readonly state: RunState) {}

  /** The earliest step whose numbers and experts are both known. */
  get first(): number {
    return Math.max(this.state.steps.first, this.earliest);
  }

  /** The earliest step after which the experts are known; -1 is before the first step. */
  private get earliest(): number {
    const { routing, moves } = this.state;
    return Math.max(routing.first - 1, moves.from - 1);
  }

  /** Move to the state after `step`, which must be known. */
  show(step: number): this {
    const { state } = this;
    const fresh = this.epoch !== state.epoch || this.step < this.earliest;
    if (fresh) this.restart();
    if (!fresh && step === this.step) return this;
    while (this.step < step) this.count(++this.step, 1);
    while (this.step > step) this.count(this.step--, -1);
    this.applyMoves();
    this.maxCount = this.chosenCount = 0;
    for (const count of this.counts) {
      if (count > 0) this.chosenCount += 1;
      if (count > this.maxCount) this.maxCount = count;
    }
    return this;
  }

  /** The experts after `step`; null if that is not kept. */
  after(step: number): ExpertStates | null {
    return step < this.earliest || !this.state.routing.has(step) ? null : this.show(step);
  }

  /** Copy the current state. */
  private restart(): void {
    const { state } = this;
    this.epoch = state.epoch;
    this.counts = state.counts.slice();
    this.layerTotals = state.layerTotals.slice();
    this.resident = state.resident.slice();
    this.residentCount = state.residentCount;
    this.moves = state.moves.end;
    this.step = state.steps.end - 1;
  }

  /** Add a step's choices to the counts, or take them off. */
  private count(step: number, sign: 1 | -1): void {
    const { counts, layerTotals, state } = this;
    state.routing.forEach(step, state.experts, (index) => {
      counts[index] += sign;
      layerTotals[Math.floor(index / state.experts)] += sign;
    });
  }

  /** Apply or undo arrivals and evictions up to `step`. */
  private applyMoves(): void {
    const { moves } = this.state;
    while (this.moves > moves.begin && moves.stepOf(this.moves - 1) > this.step) {
      this.moves -= 1;
      this.set(moves.expertOf(this.moves), moves.arrived(this.moves) ? 0 : 1);
    }
    while (this.moves < moves.end && moves.stepOf(this.moves) <= this.step) {
      this.set(moves.expertOf(this.moves), moves.arrived(this.moves) ? 1 : 0);
      this.moves += 1;
    }
  }

  private set(index: number, here: 0 | 1): void {
    this.residentCount += here - this.resident[index];
    this.resident[index] = here;
  }
}
