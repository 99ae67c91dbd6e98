// The experts as they were after an earlier step: counts, residency.
//
// It starts at the current state, or at the checkpoint nearest to the step, and undoes or repeats
// steps one by one. A call in progress is undone with the rest.

import { type Checkpoint, Checkpoints, copyOf } from "./checkpoints";
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
  #epoch = -1;
  /** The moves before this one are applied. */
  #moves = 0;

  readonly #checkpoints: Checkpoints;

  /** `near` is often at the step that is shown next. */
  constructor(
    private readonly state: RunState,
    private readonly near?: ExpertHistory,
  ) {
    this.#checkpoints = Checkpoints.of(state);
  }

  /** The earliest step whose numbers and experts are both known. */
  get first(): number {
    return Math.max(this.state.steps.first, this.#earliest);
  }

  /** The earliest step after which the experts are known; -1 is before the first step. */
  get #earliest(): number {
    const { routing, moves } = this.state;
    return Math.max(routing.first - 1, moves.from - 1);
  }

  /** Move to the state after `step`, which must be known. */
  show(step: number): this {
    const { state } = this;
    const fresh = this.#epoch !== state.epoch || this.step < this.#earliest;
    if (fresh) this.#restart();
    if (!fresh && step === this.step) return this;
    this.#approach(step);
    this.maxCount = this.chosenCount = 0;
    for (const count of this.counts) {
      if (count > 0) this.chosenCount += 1;
      if (count > this.maxCount) this.maxCount = count;
    }
    return this;
  }

  /**
   * Make checkpoints that are missing, the newest first, so that not even the first jump walks far.
   * Returns whether there may be more to make.
   */
  keepUp(): boolean {
    const checkpoints = this.#checkpoints;
    const { every } = checkpoints;
    const end = this.state.steps.end - 1;
    let step = end - (end % every);
    while (step >= 0 && !checkpoints.wants(step)) step -= every;
    return step >= 0 && this.after(step) !== null;
  }

  /** The experts after `step`; null if that is not kept. */
  after(step: number): ExpertStates | null {
    return step < this.#earliest || !this.state.routing.has(step) ? null : this.show(step);
  }

  /** Copy the current state. */
  #restart(): void {
    const { state } = this;
    // The counts of a call of several tokens in progress have a part of it: they serve only once.
    this.#epoch = state.callTokens > 1 ? -1 : state.epoch;
    this.#take(state.steps.end - 1, state);
    this.#moves = state.moves.end;
  }

  #take(step: number, experts: Checkpoint): void {
    Object.assign(this, copyOf(experts), { step });
  }

  /** Go to a step from here or from a checkpoint, and leave checkpoints on the way. */
  #approach(step: number): void {
    const { state } = this,
      checkpoints = this.#checkpoints,
      earliest = this.#earliest;
    const { near } = this;
    const there = near?.step === step && near.#epoch === state.epoch && this.step !== step;
    const nearest: [number, Checkpoint] | null = there
      ? [step, near]
      : checkpoints.nearest(step, earliest, Math.abs(this.step - step));
    if (nearest) {
      this.#take(...nearest);
      this.#epoch = state.epoch;
      this.#moves = state.moves.endOf(this.step);
    }
    this.#applyMoves();
    while (this.step !== step) {
      if (this.step < step) this.#count(++this.step, 1);
      else this.#count(this.step--, -1);
      if (!checkpoints.wants(this.step) || this.#epoch !== state.epoch) continue;
      this.#applyMoves();
      checkpoints.keep(this.step, this, earliest);
    }
    this.#applyMoves();
  }

  /** Add a step's choices to the counts, or take them off. */
  #count(step: number, sign: 1 | -1): void {
    const { counts, layerTotals, state } = this;
    for (const index of state.routing.indices(step, state.experts)) {
      counts[index] += sign;
      layerTotals[Math.floor(index / state.experts)] += sign;
    }
  }

  /** Apply or undo arrivals and evictions up to `step`. */
  #applyMoves(): void {
    const { moves } = this.state;
    const end = moves.endOf(this.step);
    while (this.#moves > end) {
      this.#moves -= 1;
      this.#set(moves.expertOf(this.#moves), moves.arrived(this.#moves) ? 0 : 1);
    }
    while (this.#moves < end) {
      this.#set(moves.expertOf(this.#moves), moves.arrived(this.#moves) ? 1 : 0);
      this.#moves += 1;
    }
  }

  #set(index: number, here: 0 | 1): void {
    this.residentCount += here - this.resident[index];
    this.resident[index] = here;
  }
}
