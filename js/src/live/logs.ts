// Logs of a run: the numbers of each step, its routing, and the experts that moved.
//
// All are bounded and drop their oldest entries; `first` and `from` say where what is kept begins.
// They know neither the page nor messages.

import { type Frame, NO_EXPERT, type StepColumns } from "./frames";
import { KEPT_STEPS } from "./limits";
import { firstWhere } from "./search";

/** Bytes of routing kept: 10,416 steps of 48 layers with 8 experts each. */
const KEPT_ROUTING = 8_000_000;
/** Moves of experts kept, at most; 4 bytes each. */
export const KEPT_MOVES = 1 << 22;

/** Steps for which there is room; when it is full, the newest KEPT_STEPS stay. */
const CAPACITY = 2 * KEPT_STEPS;

const NONE = new Uint16Array(0);

/** A log of consecutive steps. */
class Steps {
  /** The first step kept, and the number of steps kept. */
  first = 0;
  length = 0;

  /** One past the last step. */
  get end(): number {
    return this.first + this.length;
  }

  has(step: number): boolean {
    return step >= this.first && step < this.end;
  }

  clear(first: number): void {
    this.first = first;
    this.length = 0;
  }

  /** Drop the steps from `step` on, if those before it are kept; else everything. */
  cut(step: number): void {
    if (step < this.first || step > this.end) this.clear(step);
    else this.length = step - this.first;
  }
}

/** The experts that each step chose in each layer, and whether they were in RAM. */
export class RoutingLog extends Steps {
  layers = 0;
  k = 0;
  #experts = new Uint16Array(0);
  #bits = new Uint8Array(0);
  #indices = new Uint32Array(0);

  append(frame: Frame): void {
    const { nSteps, routed, layers, k, firstStep } = frame;
    if (nSteps === 0) return;
    const begin = firstStep + nSteps - routed;
    if (begin !== this.end || layers !== this.layers || k !== this.k) {
      this.clear(begin);
      if (layers * k !== this.width) this.#experts = NONE;
      [this.layers, this.k] = [layers, k];
    }
    if (!routed || !this.width) return;
    const keep = Math.max(1, Math.min(KEPT_STEPS, Math.floor(KEPT_ROUTING / (2 * this.width))));
    const take = Math.min(routed, keep);
    const from = routed - take;
    if (from) this.clear(this.end + from); // a log has no gap
    this.#makeRoom(take, keep);
    this.#experts.set(frame.expertsOf.subarray(from * this.width), this.length * this.width);
    this.#bits.set(frame.hitBits.subarray(from * this.#rowBytes), this.length * this.#rowBytes);
    this.length += take;
  }

  /** Experts per step, over all layers. */
  get width(): number {
    return this.layers * this.k;
  }

  /** The experts that a step chose in one layer, as a view; entries may be NO_EXPERT. */
  chosen(step: number, layer: number): Uint16Array {
    if (!this.has(step)) return NONE;
    const at = (step - this.first) * this.width + layer * this.k;
    return this.#experts.subarray(at, at + this.k);
  }

  /** Whether a step chose an expert; the step must be kept. */
  chose(step: number, layer: number, expert: number): boolean {
    const at = (step - this.first) * this.width + layer * this.k;
    for (let j = 0; j < this.k; j += 1) if (this.#experts[at + j] === expert) return true;
    return false;
  }

  hit(step: number, layer: number, j: number): boolean {
    const bit = layer * this.k + j;
    return (this.#bits[(step - this.first) * this.#rowBytes + (bit >> 3)] & (1 << (bit & 7))) !== 0;
  }

  /** The experts that a step chose, each at layer * experts + expert; the next call changes them. */
  indices(step: number, experts: number): Uint32Array {
    const { width, k } = this;
    if (this.#indices.length !== width) this.#indices = new Uint32Array(width);
    const chosen = this.#experts,
      out = this.#indices;
    let n = 0;
    if (this.has(step)) {
      const from = (step - this.first) * width;
      for (let i = 0, base = 0; i < width; base += experts) {
        for (const end = i + k; i < end; i += 1) {
          const expert = chosen[from + i];
          if (expert !== NO_EXPERT) out[n++] = base + expert;
        }
      }
    }
    return out.subarray(0, n);
  }

  /**
   * Call `each` for every expert that a step chose, with layer * experts + expert and whether it
   * hit.
   */
  forEach(step: number, experts: number, each: (index: number, hit: boolean) => void): void {
    if (!this.has(step)) return;
    const { width, k } = this,
      chosen = this.#experts,
      bits = this.#bits;
    const [from, bitsFrom] = [(step - this.first) * width, (step - this.first) * this.#rowBytes];
    for (let i = 0, base = 0; i < width; base += experts) {
      for (const end = i + k; i < end; i += 1) {
        const expert = chosen[from + i];
        if (expert === NO_EXPERT) continue;
        each(base + expert, (bits[bitsFrom + (i >> 3)] & (1 << (i & 7))) !== 0);
      }
    }
  }

  get #rowBytes(): number {
    return Math.ceil(this.width / 8);
  }

  /** Make room for `n` more rows; where rows are dropped for it, `keep` stay in all. */
  #makeRoom(n: number, keep: number): void {
    if (this.#experts.length < (this.length + n) * this.width) {
      const rows = Math.min(2 * keep, Math.max(64, 2 * (this.length + n)));
      const drop = Math.max(0, this.length + n > rows ? this.length + n - keep : 0);
      const [experts, bits] = [
        new Uint16Array(rows * this.width),
        new Uint8Array(rows * this.#rowBytes),
      ];
      experts.set(this.#experts.subarray(drop * this.width, this.length * this.width));
      bits.set(this.#bits.subarray(drop * this.#rowBytes, this.length * this.#rowBytes));
      [this.#experts, this.#bits] = [experts, bits];
      this.first += drop;
      this.length -= drop;
    }
  }
}

/** Arrivals and evictions in order. A move is twice the expert's index, plus 1 if it arrived. */
export class MoveLog {
  /** All moves from this step on are kept. */
  from = 0;
  /** Moves are numbered from the first of the run; [begin, end) are kept. */
  begin = 0;
  end = 0;
  /** The steps with moves, ascending, and the first move of each. */
  #steps: number[] = [];
  #starts: number[] = [];
  #codes = new Uint32Array(256);

  clear(from: number): void {
    this.from = from;
    this.begin = this.end = 0;
    this.#steps = [];
    this.#starts = [];
  }

  /** Drop the moves of the steps from `step` on. */
  cut(step: number): void {
    this.end = this.endOf(step - 1);
    this.#steps.length = this.#starts.length = this.#groupsTo(step - 1);
  }

  append({ move, moveStep }: Frame): void {
    for (let i = 0; i < move.length; i += 1) {
      if (this.end - this.begin === this.#codes.length) this.#makeRoom();
      if (moveStep[i] !== this.#steps.at(-1)) {
        this.#steps.push(moveStep[i]);
        this.#starts.push(this.end);
      }
      this.#codes[this.end - this.begin] = move[i];
      this.end += 1;
    }
  }

  stepOf(n: number): number {
    return this.#steps[this.#groupOf(n)];
  }

  /** One past the last move up to a step. */
  endOf(step: number): number {
    return this.#starts[this.#groupsTo(step)] ?? this.end;
  }

  expertOf(n: number): number {
    return this.#codes[n - this.begin] >> 1;
  }

  /** The last move before `n` of an expert that is 1 in `wanted`; -1 if none is kept. */
  lastOf(wanted: Uint8Array, n: number): number {
    const codes = this.#codes;
    for (let i = n - this.begin - 1; i >= 0; i -= 1)
      if (wanted[codes[i] >> 1]) return this.begin + i;
    return -1;
  }

  arrived(n: number): boolean {
    return (this.#codes[n - this.begin] & 1) === 1;
  }

  /** How many of `steps` are at most `step`. */
  #groupsTo(step: number): number {
    return firstWhere(this.#steps.length, (i) => this.#steps[i] > step);
  }

  /** The index in `steps` of a move's step. */
  #groupOf(n: number): number {
    return firstWhere(this.#starts.length, (i) => this.#starts[i] > n) - 1;
  }

  #makeRoom(): void {
    const codes = this.#codes;
    if (codes.length < KEPT_MOVES) {
      this.#codes = new Uint32Array(2 * codes.length);
      this.#codes.set(codes);
      return;
    }
    const drop = codes.length >> 1;
    this.from = Math.max(this.from, this.stepOf(this.begin + drop - 1) + 1);
    codes.copyWithin(0, drop);
    this.begin += drop;
    const groups = this.#groupOf(this.begin);
    this.#steps.splice(0, groups);
    this.#starts.splice(0, groups);
    this.#starts[0] = this.begin;
  }
}

type ColumnName = Exclude<keyof StepColumns, "parts">;

type Column = StepColumns[ColumnName];

/** The numbers of the newest steps, in contiguous columns that a chart reads without copying. */
export class StepLog extends Steps {
  readonly #columns: StepColumns = {
    nbytes: new Float64Array(CAPACITY),
    tokenMs: new Float32Array(CAPACITY),
    p50: new Float32Array(CAPACITY),
    p95: new Float32Array(CAPACITY),
    max: new Float32Array(CAPACITY),
    parts: [],
    hits: new Uint32Array(CAPACITY),
    misses: new Uint32Array(CAPACITY),
    reads: new Uint32Array(CAPACITY),
    textEnd: new Uint32Array(CAPACITY),
    phase: new Uint8Array(CAPACITY),
  };

  append(steps: StepColumns, n: number): void {
    const take = Math.min(n, CAPACITY);
    const overflow = this.length + take - CAPACITY;
    const drop =
      overflow > 0 ? Math.min(this.length, Math.max(overflow, this.length - KEPT_STEPS)) : 0;
    if (n && steps.parts.length !== this.partCount) {
      this.#columns.parts = steps.parts.map(() => new Float32Array(CAPACITY).fill(Number.NaN));
    }
    const move = (column: Column, from: Column) => {
      column.copyWithin(0, drop, this.length);
      column.set(from.subarray(n - take), this.length - drop);
    };
    for (const name of Object.keys(this.#columns) as (keyof StepColumns)[]) {
      if (name !== "parts") move(this.#columns[name], steps[name]);
    }
    this.#columns.parts.forEach((column, i) => {
      if (n) move(column, steps.parts[i]);
    });
    this.first += drop + (n - take);
    this.length += take - drop;
  }

  /** The value of one column at a step; NaN if it is not kept. */
  at(name: ColumnName, step: number): number {
    const i = step - this.first;
    return i >= 0 && i < this.length ? this.#columns[name][i] : Number.NaN;
  }

  /** One column over steps [from, to), as a view. */
  column<Name extends ColumnName>(name: Name, from: number, to: number): StepColumns[Name] {
    return this.#columns[name].subarray(...this.#kept(from, to)) as StepColumns[Name];
  }

  /** The number of parts that a token's time is divided into. */
  get partCount(): number {
    return this.#columns.parts.length;
  }

  /** One part of the tokens' time over steps [from, to) in ms, as a view. */
  part(column: number, from: number, to: number): Float32Array {
    return (this.#columns.parts[column] ?? new Float32Array(0)).subarray(...this.#kept(from, to));
  }

  /** Steps [from, to) as indices into the columns, limited to what is kept. */
  #kept(from: number, to: number): [number, number] {
    const low = Math.max(0, from - this.first);
    return [low, Math.max(low, Math.min(this.length, to - this.first))];
  }
}
