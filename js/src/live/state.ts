// The state of one run, folded from its frames. It knows neither the page nor messages.

import { type EvictionOrder, type Frame, NO_EXPERT, NO_TOKEN, type Totals } from "./frames";
import { KEPT_TEXT } from "./limits";
import { MoveLog, RoutingLog, StepLog } from "./logs";

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

/** All experts at one moment: now, or after some step. */
export interface ExpertStates {
  /** How often each expert was chosen, at layer * experts + expert. */
  readonly counts: Uint32Array;
  /** 1 for each expert in RAM, at layer * experts + expert. */
  readonly resident: Uint8Array;
  readonly layerTotals: Float64Array;
  readonly maxCount: number;
  readonly residentCount: number;
  /** How many experts were chosen at least once. */
  readonly chosenCount: number;
}

export class RunState implements ExpertStates {
  run = -1;
  seq = 0;
  layers = 0;
  experts = 0;
  slots = 0;
  promptTokens = 0;
  totals: Totals = NO_TOTALS;
  final = false;
  /** A frame was lost: the state is out of date until a snapshot arrives. */
  stale = false;

  /** Tokens of the call in progress, and the number of layers it has routed. */
  callTokens = 0;
  callLayers = 0;

  /** The text kept, the characters dropped before it, and how often its beginning changed. */
  text = "";
  textStart = 0;
  textEpoch = 0;
  /** Characters at the beginning that no token produced: a branch's, or of an answer begun. */
  prefilled = 0;
  /** How often the state was replaced. */
  epoch = 0;

  readonly steps = new StepLog();
  readonly routing = new RoutingLog();
  readonly moves = new MoveLog();
  counts = new Uint32Array(0);
  layerTotals = new Float64Array(0);
  resident = new Uint8Array(0);
  residentCount = 0;
  maxCount = 0;
  chosenCount = 0;
  /** The eviction order that came last; null before the first. */
  order: EvictionOrder | null = null;
  #first = NO_TOKEN;

  /** Fold one frame. "gap" means that a frame before it is missing. */
  apply(frame: Frame): Applied {
    const sameRun = frame.run === this.run && frame.layers * frame.experts === this.counts.length;
    if (frame.snapshot) {
      if (sameRun && frame.seq < this.seq) return "old";
      if (sameRun && frame.seq === this.seq && !this.stale && frame.final === this.final) {
        return "old";
      }
      this.#replaceBy(frame, sameRun);
      return "applied";
    } else if (frame.since === 0 && (!sameRun || this.seq === 0)) {
      this.#clear(frame);
    } else if (sameRun && frame.seq <= this.seq) {
      return "old";
    } else if (!sameRun || frame.since !== this.seq || this.stale) {
      this.stale = true;
      return "gap";
    }
    this.#take(frame);
    return "applied";
  }

  /** The step that produced the first token; one past the last step while there is none. */
  get firstToken(): number {
    return Math.min(this.#first, this.totals.steps);
  }

  /** Tokens generated so far. */
  get generated(): number {
    return this.totals.steps - this.firstToken;
  }

  /** The text that a step produced; "" if its beginning is not known. */
  textOf(step: number): string {
    const [from, to] = [this.textEndOf(step - 1), this.steps.at("textEnd", step)];
    if (Number.isNaN(from) || !(to > from)) return "";
    return this.text.slice(Math.max(0, from - this.textStart), Math.max(0, to - this.textStart));
  }

  /** Where the text of a step ends, counted from the run's beginning; NaN if not known. */
  textEndOf(step: number): number {
    return Math.max(this.prefilled, step < 0 ? 0 : this.steps.at("textEnd", step));
  }

  /** The steps that chose an expert, among those whose routing is kept. */
  usersOf(layer: number, expert: number): number[] {
    const { routing } = this;
    const out: number[] = [];
    for (let step = routing.first; step < routing.end; step += 1) {
      if (routing.chose(step, layer, expert)) out.push(step);
    }
    return out;
  }

  /** Hits and lookups of a step in one layer. */
  layerHits(step: number, layer: number): [number, number] {
    let [hits, lookups] = [0, 0];
    this.routing.chosen(step, layer).forEach((expert, j) => {
      if (expert === NO_EXPERT) return;
      lookups += 1;
      hits += this.routing.hit(step, layer, j) ? 1 : 0;
    });
    return [hits, lookups];
  }

  /** Milliseconds until the first token was produced; NaN before it was. */
  get firstTokenMs(): number {
    const { steps, firstToken, totals } = this;
    if (!this.generated) return Number.NaN;
    // Of a long prompt the first steps are no longer kept.
    if (steps.first > 0) return (totals.elapsedNs - totals.decodeNs) / 1e6;
    return steps.column("tokenMs", 0, firstToken + 1).reduce((sum, ms) => sum + ms, 0);
  }

  /** Generated tokens per second over all decode calls; NaN before the first. */
  get tokensPerSecond(): number {
    return (this.totals.decodeSteps / this.totals.decodeNs) * 1e9;
  }

  /** Hits over lookups: of each phase, and of both together; NaN without lookups. */
  get hitRates(): { decode: number; prefill: number; all: number } {
    const { hits, lookups, decodeHits, decodeLookups } = this.totals;
    return {
      decode: decodeHits / decodeLookups,
      prefill: (hits - decodeHits) / (lookups - decodeLookups),
      all: hits / lookups,
    };
  }

  /** Forget all that every snapshot has whole. */
  #reset(frame: Frame): void {
    const size = frame.layers * frame.experts;
    this.run = frame.run;
    this.layers = frame.layers;
    this.experts = frame.experts;
    this.counts = new Uint32Array(size);
    this.layerTotals = new Float64Array(frame.layers);
    this.resident = new Uint8Array(size);
    this.order = null;
    this.residentCount = 0;
    this.maxCount = 0;
    this.chosenCount = 0;
    this.epoch += 1;
    this.stale = false;
  }

  #clear(frame: Frame): void {
    this.#reset(frame);
    this.text = "";
    this.textStart = frame.textStart;
    this.textEpoch += 1;
    this.steps.clear(frame.firstStep);
    this.routing.clear(frame.firstStep);
    this.moves.clear(frame.movesFrom);
  }

  /** Take a snapshot. It is bounded, so of the same run what is kept from before it stays. */
  #replaceBy(frame: Frame, sameRun: boolean): void {
    const { steps, routing, moves, text, textStart, textEpoch } = this;
    const textFrom = frame.textStart - textStart;
    const { end } = steps;
    if (!sameRun || frame.firstStep > end || textFrom < 0 || textFrom > text.length) {
      this.#clear(frame);
      this.#take(frame);
      return;
    }
    this.#reset(frame);
    steps.cut(frame.firstStep);
    routing.cut(frame.firstStep + frame.nSteps - frame.routed);
    if (frame.movesFrom > moves.from && frame.movesFrom <= end) moves.cut(frame.movesFrom);
    else moves.clear(frame.movesFrom);
    this.text = text.slice(0, textFrom);
    this.#take(frame);
    // The elements of the text stay, unless it is another.
    const grown = steps.end >= end && this.text.startsWith(text);
    if (!grown && textEpoch === this.textEpoch) this.textEpoch += 1;
  }

  #take(frame: Frame): void {
    this.seq = frame.seq;
    this.slots = frame.slots;
    this.promptTokens = frame.promptTokens;
    this.totals = frame.totals;
    this.final = frame.final;
    this.callTokens = frame.callTokens;
    this.callLayers = frame.callLayers;
    this.#first = frame.firstToken;
    this.steps.append(frame.steps, frame.nSteps);
    this.routing.append(frame);
    this.moves.append(frame);
    this.#addText(frame.text);
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
    }
    if (frame.order.kind) this.order = frame.order;
  }

  #addText(text: string): void {
    this.text += text;
    if (this.text.length > 2 * KEPT_TEXT) {
      this.textStart += this.text.length - KEPT_TEXT;
      this.text = this.text.slice(-KEPT_TEXT);
      this.textEpoch += 1;
    }
  }
}
