// What is known of one run: the fold of its frames. No DOM, no messages.

import { KEPT_STEPS, KEPT_TEXT, RECENT_STEPS } from "./constants";
import type { Frame, StepColumns, Totals } from "./frames";

export type Applied = "applied" | "old" | "gap";

const NO_TOTALS: Totals = {
  steps: 0,
  lookups: 0,
  hits: 0,
  reads: 0,
  nbytes: 0,
  evictions: 0,
  elapsedNs: 0,
  decodeSteps: 0,
  decodeLookups: 0,
  decodeHits: 0,
  decodeNs: 0,
};

const NEVER = -1_000_000;

export class RunState {
  run = -1;
  seq = 0;
  layers = 0;
  experts = 0;
  slots = 0;
  promptTokens = 0;
  totals: Totals = NO_TOTALS;
  final = false;
  /** A frame was lost: what is shown is old until a snapshot comes. */
  stale = false;
  /** Grows with every change, so that a view knows whether to draw. */
  version = 0;

  /** Text kept, and how often its beginning changed (a view then starts over). */
  text = "";
  textEpoch = 0;

  readonly steps = new StepLog();
  /** Per expert, at layer * experts + expert. */
  counts = new Uint32Array(0);
  layerTotals = new Float64Array(0);
  resident = new Uint8Array(0);
  residentCount = 0;
  maxCount = 0;
  private arrivedAt = new Int32Array(0);

  /** Fold one frame; `gap` means that it needs frames that never came. */
  apply(frame: Frame): Applied {
    const sameRun = frame.run === this.run && frame.layers * frame.experts === this.counts.length;
    if (frame.snapshot) {
      if (sameRun && frame.seq < this.seq) return "old";
      if (sameRun && frame.seq === this.seq && !this.stale && frame.final === this.final) {
        return "old";
      }
      this.clear(frame);
    } else if (frame.since === 0 && (!sameRun || this.seq === 0)) {
      this.clear(frame);
    } else if (sameRun && frame.seq <= this.seq) {
      return "old";
    } else if (!sameRun || frame.since !== this.seq || this.stale) {
      this.stale = true;
      return "gap";
    }
    this.take(frame);
    return "applied";
  }

  isRecent(index: number): boolean {
    return this.totals.steps - this.arrivedAt[index] < RECENT_STEPS;
  }

  /** Tokens since the expert arrived; meaningful while it is resident and was seen to arrive. */
  arrivedAgo(index: number): number | null {
    const at = this.arrivedAt[index];
    return at === NEVER ? null : this.totals.steps - at;
  }

  /** The first step that read a generated token: prefill always comes first. */
  get firstDecodeStep(): number {
    return this.totals.steps - this.totals.decodeSteps;
  }

  /** Generated tokens a second over all decode calls, NaN before the first. */
  get tokensPerSecond(): number {
    return (this.totals.decodeSteps / this.totals.decodeNs) * 1e9;
  }

  get decodeHitRate(): number {
    return this.totals.decodeHits / this.totals.decodeLookups;
  }

  private clear(frame: Frame): void {
    const size = frame.layers * frame.experts;
    this.run = frame.run;
    this.layers = frame.layers;
    this.experts = frame.experts;
    this.counts = new Uint32Array(size);
    this.layerTotals = new Float64Array(frame.layers);
    this.resident = new Uint8Array(size);
    this.arrivedAt = new Int32Array(size).fill(NEVER);
    this.residentCount = 0;
    this.maxCount = 0;
    this.text = "";
    this.textEpoch += 1;
    this.steps.clear(frame.firstStep);
    this.stale = false;
  }

  private take(frame: Frame): void {
    this.seq = frame.seq;
    this.slots = frame.slots;
    this.promptTokens = frame.promptTokens;
    this.totals = frame.totals;
    this.final = frame.final;
    this.version += 1;
    this.steps.append(frame.steps, frame.nSteps);
    this.addText(frame.text);
    for (let i = 0; i < frame.count.length; i += 1) {
      const index = frame.countIndex[i];
      this.counts[index] += frame.count[i];
      this.layerTotals[Math.floor(index / this.experts)] += frame.count[i];
      this.maxCount = Math.max(this.maxCount, this.counts[index]);
    }
    for (let i = 0; i < frame.changeState.length; i += 1) {
      const index = frame.changeIndex[i];
      const state = frame.changeState[i];
      this.residentCount += state - this.resident[index];
      this.resident[index] = state;
      // What was there from the start did not arrive: nobody saw it come.
      this.arrivedAt[index] = state && frame.since ? this.totals.steps : NEVER;
    }
  }

  private addText(text: string): void {
    this.text += text;
    if (this.text.length > 2 * KEPT_TEXT) {
      this.text = this.text.slice(-KEPT_TEXT);
      this.textEpoch += 1;
    }
  }
}

type ColumnName = keyof StepColumns;

/** The newest steps, column by column, as contiguous arrays a chart can read without copying. */
export class StepLog {
  /** Number of the first step kept, and how many are kept. */
  first = 0;
  length = 0;
  private readonly capacity = 2 * KEPT_STEPS;
  private readonly columns: StepColumns = {
    nbytes: new Float64Array(this.capacity),
    tokenMs: new Float32Array(this.capacity),
    p50: new Float32Array(this.capacity),
    p95: new Float32Array(this.capacity),
    max: new Float32Array(this.capacity),
    hits: new Uint32Array(this.capacity),
    misses: new Uint32Array(this.capacity),
    reads: new Uint32Array(this.capacity),
    phase: new Uint8Array(this.capacity),
  };

  clear(first: number): void {
    this.first = first;
    this.length = 0;
  }

  append(steps: StepColumns, n: number): void {
    const take = Math.min(n, this.capacity);
    const overflow = this.length + take - this.capacity;
    const drop =
      overflow > 0 ? Math.min(this.length, Math.max(overflow, this.length - KEPT_STEPS)) : 0;
    for (const name of Object.keys(this.columns) as ColumnName[]) {
      const column = this.columns[name];
      column.copyWithin(0, drop, this.length);
      column.set(steps[name].subarray(n - take), this.length - drop);
    }
    this.first += drop + (n - take);
    this.length += take - drop;
  }

  /** One past the last step. */
  get end(): number {
    return this.first + this.length;
  }

  /** The value of one column at a step, NaN where that is not kept. */
  at(name: ColumnName, step: number): number {
    const i = step - this.first;
    return i >= 0 && i < this.length ? this.columns[name][i] : Number.NaN;
  }

  /** One column over [from, to), a view. */
  column<Name extends ColumnName>(name: Name, from: number, to: number): StepColumns[Name] {
    const low = Math.max(0, from - this.first);
    const high = Math.max(low, Math.min(this.length, to - this.first));
    return this.columns[name].subarray(low, high) as StepColumns[Name];
  }
}
