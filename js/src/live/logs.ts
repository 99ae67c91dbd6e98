// What the newest steps chose, and which experts came and went: what scrubbing back is made of.
//
// Both logs are bounded and drop their oldest part; `first` and `from` say from where they are
// whole. No DOM, no messages.

import { KEPT_MOVES, KEPT_ROUTING, KEPT_STEPS } from "./limits";
import { type Frame, NO_EXPERT } from "./frames";

const NOTHING = new Uint16Array(0);

/** Which experts each step chose, layer by layer, and whether they were in RAM. */
export class RoutingLog {
  /** The first step kept, and how many are kept. */
  first = 0;
  length = 0;
  layers = 0;
  k = 0;
  private experts = new Uint16Array(0);
  private bits = new Uint8Array(0);

  clear(first: number): void {
    this.first = first;
    this.length = 0;
  }

  append(frame: Frame): void {
    const { nSteps, routed, layers, k, firstStep } = frame;
    if (nSteps === 0) return;
    const begin = firstStep + nSteps - routed;
    if (begin !== this.end || layers !== this.layers || k !== this.k) {
      this.clear(begin);
      if (layers * k !== this.width) this.experts = NOTHING;
      [this.layers, this.k] = [layers, k];
    }
    if (!routed || !this.width) return;
    const keep = Math.max(1, Math.min(KEPT_STEPS, Math.floor(KEPT_ROUTING / (2 * this.width))));
    const take = Math.min(routed, keep);
    this.makeRoom(take, keep, routed - take);
    const from = routed - take;
    this.experts.set(frame.expertsOf.subarray(from * this.width), this.length * this.width);
    this.bits.set(frame.hitBits.subarray(from * this.rowBytes), this.length * this.rowBytes);
    this.length += take;
  }

  /** Experts per step, over all layers. */
  get width(): number {
    return this.layers * this.k;
  }

  /** One past the last step. */
  get end(): number {
    return this.first + this.length;
  }

  has(step: number): boolean {
    return step >= this.first && step < this.end;
  }

  /** What a step chose in one layer, a view; entries may be NO_EXPERT. */
  chosen(step: number, layer: number): Uint16Array {
    if (!this.has(step)) return NOTHING;
    const at = (step - this.first) * this.width + layer * this.k;
    return this.experts.subarray(at, at + this.k);
  }

  /** Whether a step, which must be kept, chose an expert. */
  chose(step: number, layer: number, expert: number): boolean {
    const at = (step - this.first) * this.width + layer * this.k;
    for (let j = 0; j < this.k; j += 1) if (this.experts[at + j] === expert) return true;
    return false;
  }

  hit(step: number, layer: number, j: number): boolean {
    const bit = layer * this.k + j;
    return (this.bits[(step - this.first) * this.rowBytes + (bit >> 3)] & (1 << (bit & 7))) !== 0;
  }

  /** Call `each` with the number of every expert that a step chose, and whether it was a hit. */
  forEach(step: number, experts: number, each: (index: number, hit: boolean) => void): void {
    if (!this.has(step)) return;
    for (let layer = 0; layer < this.layers; layer += 1) {
      this.chosen(step, layer).forEach((expert, j) => {
        if (expert !== NO_EXPERT) each(layer * experts + expert, this.hit(step, layer, j));
      });
    }
  }

  private get rowBytes(): number {
    return Math.ceil(this.width / 8);
  }

  /** Room for `n` more rows; of those there at most `keep` - n stay, and `skipped` never came. */
  private makeRoom(n: number, keep: number, skipped: number): void {
    if (this.experts.length < (this.length + n) * this.width) {
      const rows = Math.min(2 * keep, Math.max(64, 2 * (this.length + n)));
      const drop = Math.max(0, this.length + n > rows ? this.length + n - keep : 0);
      const [experts, bits] = [
        new Uint16Array(rows * this.width),
        new Uint8Array(rows * this.rowBytes),
      ];
      experts.set(this.experts.subarray(drop * this.width, this.length * this.width));
      bits.set(this.bits.subarray(drop * this.rowBytes, this.length * this.rowBytes));
      [this.experts, this.bits] = [experts, bits];
      this.first += drop;
      this.length -= drop;
    }
    if (skipped) {
      this.first += this.length + skipped;
      this.length = 0;
    }
  }
}

/** Arrivals and evictions in order. A move is twice the expert's number, plus 1 when it came. */
export class MoveLog {
  /** All moves of steps from this one on are kept. */
  from = 0;
  /** Moves are numbered from the run's first; those from `begin` to `end` are kept. */
  begin = 0;
  end = 0;
  private steps = new Uint32Array(256);
  private codes = new Uint32Array(256);

  clear(): void {
    this.from = this.begin = this.end = 0;
  }

  append(frame: Frame): void {
    this.from = Math.max(this.from, frame.movesFrom);
    for (let i = 0; i < frame.move.length; i += 1) {
      if (this.end - this.begin === this.codes.length) this.makeRoom();
      this.steps[this.end - this.begin] = frame.moveStep[i];
      this.codes[this.end - this.begin] = frame.move[i];
      this.end += 1;
    }
  }

  stepOf(n: number): number {
    return this.steps[n - this.begin];
  }

  expertOf(n: number): number {
    return this.codes[n - this.begin] >> 1;
  }

  came(n: number): boolean {
    return (this.codes[n - this.begin] & 1) === 1;
  }

  private makeRoom(): void {
    const length = this.codes.length;
    if (length < KEPT_MOVES) {
      const [steps, codes] = [new Uint32Array(2 * length), new Uint32Array(2 * length)];
      steps.set(this.steps);
      codes.set(this.codes);
      [this.steps, this.codes] = [steps, codes];
      return;
    }
    const drop = length >> 1;
    this.from = Math.max(this.from, this.steps[drop - 1] + 1);
    this.steps.copyWithin(0, drop);
    this.codes.copyWithin(0, drop);
    this.begin += drop;
  }
}
