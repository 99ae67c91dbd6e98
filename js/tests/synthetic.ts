// A mock of anywidget's model that records what is sent, and synthetic runs to feed it.

import { EXACT, type Frame, NO_TOKEN, type StepColumns, type Totals } from "../src/live/frames";
import type { Part } from "../src/live/info";
import type { Model } from "../src/widget/host";

/** Parts as Python reports them for compiled kernels, with the tests' own names. */
export const PARTS: readonly Part[] = [
  { column: 0, key: "dense", name: "dense work", means: "attention and the like" },
  { column: 1, key: "experts", name: "expert work", means: "the experts" },
  { column: 5, key: "lookup", name: "lookup", means: "which experts are in RAM" },
  { column: 6, key: "read_wait", name: "waiting", means: "for reads" },
  { column: 9, key: "watch", name: "watching", means: "the view itself" },
  { column: 10, key: "rest", name: "the rest", means: "everything else" },
];
/** Columns of parts in a frame, reported or not. */
const COLUMNS = 11;

export class MockModel implements Model {
  readonly sent: unknown[] = [];
  private readonly handlers = new Map<string, Set<(...args: unknown[]) => void>>();
  private readonly traits: Record<string, unknown>;

  constructor(traits: Record<string, unknown> = {}) {
    this.traits = { view_id: "v1", status: "waiting", info: {}, kernel_id: "", ...traits };
  }

  get(name: string): unknown {
    return this.traits[name];
  }

  set(name: string, value: unknown): void {
    this.traits[name] = value;
    this.emit(`change:${name}`);
    this.emit("change");
  }

  on(event: string, callback: (...args: never[]) => void): void {
    const set = this.handlers.get(event) ?? new Set();
    this.handlers.set(event, set.add(callback as never));
  }

  off(event: string, callback: (...args: never[]) => void): void {
    this.handlers.get(event)?.delete(callback as never);
  }

  send(content: unknown): void {
    this.sent.push(content);
    const { type, name } = content as { type?: string; name?: string };
    if (type === "module" && name && name in this.modules)
      queueMicrotask(() =>
        this.emit("msg:custom", { type: "module", name, text: this.modules[name] }),
      );
  }

  /** The modules that this Python has, as text. */
  modules: Record<string, string> = {};

  /** What was sent, but for questions for the eviction order. */
  get requests(): unknown[] {
    return this.sent.filter(
      (each) => (each as { about?: { order?: number } }).about?.order === undefined,
    );
  }

  emit(event: string, ...args: unknown[]): void {
    for (const handler of this.handlers.get(event) ?? []) handler(...args);
  }

  /** Deliver a frame as the kernel sends it. */
  frame(bytes: Uint8Array): void {
    this.emit("msg:custom", { type: "frame" }, [new DataView(bytes.slice().buffer)]);
  }

  get listeners(): number {
    return [...this.handlers.values()].reduce((n, set) => n + set.size, 0);
  }
}

/** Encode a frame as frames.py does. */
export function encode(frame: Frame): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(frame.text);
  const { steps } = frame;
  const { experts } = frame.order;
  const halves = [Uint16Array.from(experts), Uint16Array.from(experts, (n) => n >> 16)];
  const order =
    frame.layers * frame.experts > 65_536 ? Uint16Array.of(...halves[0], ...halves[1]) : halves[0];
  const columns = [steps.nbytes, steps.tokenMs, steps.p50, steps.p95, steps.max];
  const arrays: ArrayBufferView[] = [
    ...columns,
    ...steps.parts,
    ...[steps.hits, steps.misses, steps.reads, steps.textEnd],
    ...[frame.countIndex, frame.count, frame.changeIndex, frame.moveStep, frame.move],
    ...[frame.expertsOf, order, steps.phase, frame.changeState, frame.hitBits, text],
  ];
  const length = 200 + arrays.reduce((n, array) => n + array.byteLength, 0);
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x464c4a4f, true);
  view.setUint16(4, 4, true);
  view.setUint16(6, (frame.snapshot ? 1 : 0) | (frame.final ? 2 : 0), true);
  const head = [
    ...[length, frame.run, frame.seq, frame.since, frame.firstStep, frame.nSteps, frame.layers],
    ...[frame.experts, frame.slots, frame.promptTokens, frame.textStart, text.length],
    ...[frame.count.length, frame.changeIndex.length, frame.k, frame.routed, frame.move.length],
    ...[frame.movesFrom, frame.callTokens, frame.callLayers],
    ...[steps.parts.length, frame.firstToken],
    ...[frame.order.kind, experts.length, frame.order.pinned, frame.order.steps],
  ];
  head.forEach((value, n) => {
    view.setUint32(8 + 4 * n, value, true);
  });
  Object.values(frame.totals).forEach((value, n) => {
    view.setBigUint64(112 + 8 * n, BigInt(value), true);
  });
  let at = 200;
  for (const array of arrays) {
    bytes.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), at);
    at += array.byteLength;
  }
  return bytes;
}

export function noSteps(n: number): StepColumns {
  const f32 = () => new Float32Array(n).fill(Number.NaN);
  return {
    nbytes: new Float64Array(n),
    tokenMs: f32(),
    p50: f32(),
    p95: f32(),
    max: f32(),
    parts: Array.from({ length: COLUMNS }, f32),
    hits: new Uint32Array(n),
    misses: new Uint32Array(n),
    reads: new Uint32Array(n),
    textEnd: new Uint32Array(n),
    phase: new Uint8Array(n),
  };
}

export interface Shape {
  layers: number;
  experts: number;
  k: number;
  slots: number;
  prompt: number;
  expertBytes: number;
}

const WORDS =
  "The river keeps its own time . It does not hurry past the stones , nor does it wait for us ; it finds the low places and fills them , one after another , until the valley knows its shape again .".split(
    " ",
  );

/** A run with skewed routing and an LRU-like cache. */
export class Synthetic {
  seq = 0;
  private steps = 0;
  private textBytes = 0;
  private random = 1;
  private readonly used: Int32Array;
  private readonly total: Totals;
  private order: number[] = [];
  /** Whether frames have the eviction order; without it a long run is made sooner. */
  ordered = true;
  /** Words to a paragraph; 0 makes one of all. */
  paragraph = 0;

  constructor(readonly shape: Shape) {
    this.used = new Int32Array(shape.layers * shape.experts).fill(-1);
    this.total = {
      ...{ steps: 0, lookups: 0, hits: 0, reads: 0, nbytes: 0, evictions: 0, elapsedNs: 0 },
      ...{ decodeSteps: 0, decodeLookups: 0, decodeHits: 0, decodeNs: 0 },
    };
  }

  /** The next frame: `n` tokens, in prefill or decode. */
  next(n: number, decode: boolean, final = false): Frame {
    const { layers, experts, k, slots, expertBytes } = this.shape;
    const counts = new Map<number, number>();
    const changes = new Map<number, number>();
    const steps = noSteps(n);
    const width = layers * k;
    const routing = {
      expertsOf: new Uint16Array(n * width),
      hitBits: new Uint8Array(n * Math.ceil(width / 8)),
      moves: [] as number[],
    };
    for (let i = 0; i < n; i += 1) {
      const latencies: number[] = [];
      for (let layer = 0; layer < layers; layer += 1) {
        for (let j = 0; j < k; j += 1) {
          // Some layers prefer a few experts, and every few tokens the preference shifts.
          const expert = Math.floor(experts * this.draw() ** (2.4 + ((layer * 7) % 5) * 0.5));
          const topic = this.draw() < 0.3 ? Math.floor((this.steps + i) / 40) * 13 : 0;
          const index = layer * experts + ((expert * 37 + topic + layer * 11) % experts);
          routing.expertsOf[i * width + layer * k + j] = index % experts;
          counts.set(index, (counts.get(index) ?? 0) + 1);
          if (this.used[index] >= 0) {
            steps.hits[i] += 1;
            const bit = layer * k + j;
            routing.hitBits[i * Math.ceil(width / 8) + (bit >> 3)] |= 1 << (bit & 7);
          } else {
            steps.misses[i] += 1;
            latencies.push(0.6 + 1.2 * this.draw() ** 4 + (this.draw() > 0.995 ? 6 : 0));
            this.order.push(index);
            changes.set(index, 1);
            routing.moves.push(2 * index + 1);
            if (this.order.length > slots) routing.moves.push(2 * this.evict(changes));
          }
          this.used[index] = this.steps + i;
        }
      }
      latencies.sort((a, b) => a - b);
      const at = (q: number) => latencies[Math.floor(q * (latencies.length - 1))] ?? Number.NaN;
      [steps.p50[i], steps.p95[i], steps.max[i]] = [at(0.5), at(0.95), at(1)];
      steps.reads[i] = latencies.length;
      steps.nbytes[i] = latencies.length * expertBytes;
      steps.tokenMs[i] = 22 + latencies.length * 0.4;
      steps.phase[i] = decode ? 1 : 0;
      const wait = latencies.length * 0.4;
      const dense = 14 + 2 * this.draw();
      const partTimes = [dense, steps.tokenMs[i] - dense - wait - 1, 0.75, wait, 0.25, 0];
      PARTS.forEach(({ column }, n) => {
        steps.parts[column][i] = partTimes[n];
      });
    }
    return this.frame(n, decode, final, steps, counts, changes, routing);
  }

  /** The experts in RAM, least recently used first. */
  resident(): Uint32Array {
    if (!this.ordered) return new Uint32Array(0);
    const byUse = [...this.order].sort((a, b) => this.used[a] - this.used[b] || a - b);
    return Uint32Array.from(byUse);
  }

  private evict(changes: Map<number, number>): number {
    let oldest = 0;
    for (let i = 1; i < Math.min(64, this.order.length - 1); i += 1) {
      if (this.used[this.order[i]] < this.used[this.order[oldest]]) oldest = i;
    }
    const [gone] = this.order.splice(oldest, 1);
    this.used[gone] = -1;
    changes.set(gone, 0);
    this.total.evictions += 1;
    return gone;
  }

  private frame(
    n: number,
    decode: boolean,
    final: boolean,
    steps: StepColumns,
    counts: Map<number, number>,
    changes: Map<number, number>,
    routing: { expertsOf: Uint16Array; hitBits: Uint8Array; moves: number[] },
  ): Frame {
    const t = this.total;
    const { prompt, k } = this.shape;
    const sum = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0);
    const [hits, misses] = [sum(steps.hits), sum(steps.misses)];
    t.steps += n;
    t.lookups += hits + misses;
    t.hits += hits;
    t.reads += sum(steps.reads);
    t.nbytes += sum(steps.nbytes);
    if (decode) {
      t.decodeSteps += n;
      t.decodeLookups += hits + misses;
      t.decodeHits += hits;
      t.decodeNs += Math.round(sum(steps.tokenMs) * 1e6);
    }
    const word = WORDS[(this.steps - prompt + WORDS.length) % WORDS.length];
    const hasText = decode || this.steps + n === prompt;
    const spaced = /[.,;]/.test(word) || this.textBytes === 0 ? word : ` ${word}`;
    const last = this.paragraph && !((this.steps - prompt + 1) % this.paragraph);
    const text = hasText ? spaced + (last ? "\n\n" : "") : "";
    steps.textEnd.fill(this.textBytes);
    steps.textEnd[n - 1] = this.textBytes + text.length;
    const sorted = (map: Map<number, number>) => [...map].sort((a, b) => a[0] - b[0]);
    const [c, r] = [sorted(counts), sorted(changes)];
    const frame: Frame = {
      ...{ run: 1, seq: this.seq + 1, since: this.seq, firstStep: this.steps, nSteps: n },
      ...{ layers: this.shape.layers, experts: this.shape.experts, slots: this.shape.slots },
      ...{ promptTokens: prompt, textStart: this.textBytes, text, steps },
      countIndex: Uint32Array.from(c, ([index]) => index),
      count: Uint32Array.from(c, ([, count]) => count),
      changeIndex: Uint32Array.from(r, ([index]) => index),
      changeState: Uint8Array.from(r, ([, state]) => state),
      ...{ k, routed: n, expertsOf: routing.expertsOf, hitBits: routing.hitBits },
      moveStep: new Uint32Array(routing.moves.length).fill(this.steps + n - 1),
      ...{ move: Uint32Array.from(routing.moves), movesFrom: 0, callTokens: 0, callLayers: 0 },
      firstToken: hasText ? Math.max(0, t.steps - t.decodeSteps - 1) : NO_TOKEN,
      order: {
        kind: this.ordered ? EXACT : 0,
        experts: this.resident(),
        pinned: 0,
        steps: t.steps,
      },
      ...{ totals: { ...t }, snapshot: false, final },
    };
    this.seq += 1;
    this.steps += n;
    this.textBytes += text.length;
    return frame;
  }

  /** A repeatable random number in [0, 1): mulberry32. */
  private draw(): number {
    this.random = (this.random + 0x6d2b79f5) | 0;
    let t = Math.imul(this.random ^ (this.random >>> 15), 1 | this.random);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }
}

/**
 * Wait until every view below `host` is drawn and stays the same for a while. A busy machine draws
 * late, so this waits for animation frames and compares the document.
 */
export async function settled(host: HTMLElement): Promise<void> {
  const end = performance.now() + 10_000;
  let before = "";
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 160));
    await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    const names = [...host.querySelectorAll(".oj-model")];
    const drawn = names.every((name) => name.textContent !== "");
    if ((drawn && host.innerHTML === before) || performance.now() > end) return;
    before = host.innerHTML;
  }
}
