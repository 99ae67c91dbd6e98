// What is known of one run: the fold of its frames. No DOM, no messages.

import { KEPT_STEPS, KEPT_TEXT, RECENT_STEPS } from "./limits";
import { type Frame, NO_EXPERT, NO_TOKEN, type StepColumns, type Totals } from "./frames";
import { MoveLog, RoutingLog } from "./logs";

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

/** What the maps show: experts as they were after some step, or as they are now. */
export interface Picture {
  /** Per expert, at layer * experts + expert. */
  readonly counts: Uint32Array;
  readonly resident: Uint8Array;
  readonly layerTotals: Float64Array;
  readonly maxCount: number;
  readonly residentCount: number;
  /** How many experts were chosen at all. */
  readonly chosenCount: number;
  /** Whether the expert came or went within the last few tokens. */
  isRecent(index: number): boolean;
  /** Tokens since the expert came or went; null when it was not seen to do so. */
  movedAgo(index: number): number | null;
}

export class RunState implements Picture {
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

  /** Tokens of the call that is open, and how many layers it has routed. */
  callTokens = 0;
  callLayers = 0;

  /** Text kept, how much was dropped before it, and how often its beginning changed. */
  text = "";
  textStart = 0;
  textEpoch = 0;
  /** How often the state was told anew. */
  epoch = 0;

  readonly steps = new StepLog();
  readonly routing = new RoutingLog();
  readonly moves = new MoveLog();
  /** Per expert, at layer * experts + expert. */
  counts = new Uint32Array(0);
  layerTotals = new Float64Array(0);
  resident = new Uint8Array(0);
  residentCount = 0;
  maxCount = 0;
  chosenCount = 0;
  private movedAt = new Int32Array(0);
  private first = NO_TOKEN;

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
    return this.totals.steps - this.movedAt[index] < RECENT_STEPS;
  }

  movedAgo(index: number): number | null {
    const at = this.movedAt[index];
    return at === NEVER ? null : this.totals.steps - at;
  }

  /** The step that produced the first token; one past the last while there is none. */
  get firstToken(): number {
    return Math.min(this.first, this.totals.steps);
  }

  /** Tokens generated so far. */
  get generated(): number {
    return this.totals.steps - this.firstToken;
  }

  /** The text that was let go of after a step; "" when it is not known where it began. */
  textOf(step: number): string {
    const [from, to] = [this.textEndOf(step - 1), this.steps.at("textEnd", step)];
    if (Number.isNaN(from) || !(to > from)) return "";
    return this.text.slice(Math.max(0, from - this.textStart), Math.max(0, to - this.textStart));
  }

  /** Where the text of a step ends, counted from the run's beginning; NaN when not known. */
  textEndOf(step: number): number {
    return step < 0 ? 0 : this.steps.at("textEnd", step);
  }

  /** The steps that chose an expert, of those whose routing is kept. */
  usersOf(layer: number, expert: number): number[] {
    const { routing } = this;
    const out: number[] = [];
    for (let step = routing.first; step < routing.end; step += 1) {
      if (routing.chose(step, layer, expert)) out.push(step);
    }
    return out;
  }

  /** Hits and look-ups of one layer in a step. */
  layerHits(step: number, layer: number): [number, number] {
    let [hits, asked] = [0, 0];
    this.routing.chosen(step, layer).forEach((expert, j) => {
      if (expert === NO_EXPERT) return;
      asked += 1;
      hits += this.routing.hit(step, layer, j) ? 1 : 0;
    });
    return [hits, asked];
  }

  /** Generated tokens a second over all decode calls, NaN before the first. */
  get tokensPerSecond(): number {
    return (this.totals.decodeSteps / this.totals.decodeNs) * 1e9;
  }

  /** Of the look-ups of each phase, and of all, how many hit; NaN where there were none. */
  get hitRates(): { decode: number; prefill: number; all: number } {
    const { hits, lookups, decodeHits, decodeLookups } = this.totals;
    return {
      decode: decodeHits / decodeLookups,
      prefill: (hits - decodeHits) / (lookups - decodeLookups),
      all: hits / lookups,
    };
  }

  private clear(frame: Frame): void {
    const size = frame.layers * frame.experts;
    this.run = frame.run;
    this.layers = frame.layers;
    this.experts = frame.experts;
    this.counts = new Uint32Array(size);
    this.layerTotals = new Float64Array(frame.layers);
    this.resident = new Uint8Array(size);
    this.movedAt = new Int32Array(size).fill(NEVER);
    this.residentCount = 0;
    this.maxCount = 0;
    this.chosenCount = 0;
    this.text = "";
    this.textStart = frame.textStart;
    this.textEpoch += 1;
    this.epoch += 1;
    this.steps.clear(frame.firstStep);
    this.routing.clear(frame.firstStep);
    this.moves.clear();
    this.stale = false;
  }

  private take(frame: Frame): void {
    this.seq = frame.seq;
    this.slots = frame.slots;
    this.promptTokens = frame.promptTokens;
    this.totals = frame.totals;
    this.final = frame.final;
    this.version += 1;
    this.callTokens = frame.callTokens;
    this.callLayers = frame.callLayers;
    this.first = frame.firstToken;
    this.steps.append(frame.steps, frame.nSteps);
    this.routing.append(frame);
    this.moves.append(frame);
    this.addText(frame.text);
    for (let i = 0; i < frame.count.length; i += 1) {
      const index = frame.countIndex[i];
      if (!this.counts[index] && frame.count[i]) this.chosenCount += 1;
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
      this.movedAt[index] = frame.since ? this.totals.steps : NEVER;
    }
    if (frame.since) return;
    frame.move.forEach((move, i) => {
      this.movedAt[move >> 1] = frame.moveStep[i] + 1;
    });
  }

  private addText(text: string): void {
    this.text += text;
    if (this.text.length > 2 * KEPT_TEXT) {
      this.textStart += this.text.length - KEPT_TEXT;
      this.text = this.text.slice(-KEPT_TEXT);
      this.textEpoch += 1;
    }
  }
}

type ColumnName = Exclude<keyof StepColumns, "parts">;

type Column = StepColumns[ColumnName];

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
    parts: [],
    hits: new Uint32Array(this.capacity),
    misses: new Uint32Array(this.capacity),
    reads: new Uint32Array(this.capacity),
    textEnd: new Uint32Array(this.capacity),
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
    if (n && steps.parts.length !== this.partCount) {
      this.columns.parts = steps.parts.map(() => new Float32Array(this.capacity).fill(Number.NaN));
    }
    const move = (column: Column, from: Column) => {
      column.copyWithin(0, drop, this.length);
      column.set(from.subarray(n - take), this.length - drop);
    };
    for (const name of Object.keys(this.columns) as (keyof StepColumns)[]) {
      if (name !== "parts") move(this.columns[name], steps[name]);
    }
    this.columns.parts.forEach((column, i) => {
      if (n) move(column, steps.parts[i]);
    });
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
    return this.columns[name].subarray(...this.span(from, to)) as StepColumns[Name];
  }

  /** In how many parts a token's time is told. */
  get partCount(): number {
    return this.columns.parts.length;
  }

  /** One part of the tokens' time over [from, to) in ms, a view. */
  part(column: number, from: number, to: number): Float32Array {
    return (this.columns.parts[column] ?? new Float32Array(0)).subarray(...this.span(from, to));
  }

  private span(from: number, to: number): [number, number] {
    const low = Math.max(0, from - this.first);
    return [low, Math.max(low, Math.min(this.length, to - this.first))];
  }
}
