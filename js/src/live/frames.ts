// Decodes the wire frame of outlier_jupyter/notebook/live/frames.py, which documents the layout. Its
// older versions never get here: a notebook saves the script that reads its frames.
//
// The arrays are views into the bytes, not copies: nobody else may write to the bytes.

const MAGIC = 0x464c4a4f; // "OJLF", little-endian
const VERSION = 4;
const TOTALS_BYTES = 11 * 8;
/** Bytes of a step, without the parts of its time. */
const STEP_BYTES = 8 + 8 * 4 + 1;
const HEAD_BYTES = 112;
/** From more experts than this a number in the order takes two halves. */
const WIDE = 65_536;
/** Bits of the flags. */
const SNAPSHOT = 1;
const FINAL = 2;

/** In place of an expert, where a layer chose fewer than the widest one. */
export const NO_EXPERT = 0xffff;
/** In place of a step, while no token is generated. */
export const NO_TOKEN = 0xffffffff;

/**
 * What is known of the eviction order: nothing, the order, that the policy cannot tell it, or the
 * order of a policy that lacks what it had learned from earlier runs.
 */
export const [NO_ORDER, EXACT, UNKNOWN, RELEARNED] = [0, 1, 2, 3] as const;

/** The resident experts (layer * experts + expert), next to be evicted first. */
export interface EvictionOrder {
  kind: number;
  experts: Uint32Array;
  /** How many at the end are never evicted. */
  pinned: number;
  /** Whether it has only those that are evicted next. */
  part?: boolean;
  /** It is the order after so many steps, and what their call had moved by then. */
  steps: number;
}

/** More than any model has: what a frame claims beyond is not allocated. */
const [MOST_PARTS, MOST_EXPERTS] = [64, 2 ** 20];

export class FrameError extends Error {}

export interface Totals {
  steps: number;
  lookups: number;
  hits: number;
  reads: number;
  nbytes: number;
  evictions: number;
  elapsedNs: number;
  decodeSteps: number;
  decodeLookups: number;
  decodeHits: number;
  decodeNs: number;
}

export interface StepColumns {
  nbytes: Float64Array;
  tokenMs: Float32Array;
  p50: Float32Array;
  p95: Float32Array;
  max: Float32Array;
  /** The parts of each token's time in ms, one column per part; NaN if not known. */
  parts: Float32Array[];
  hits: Uint32Array;
  misses: Uint32Array;
  reads: Uint32Array;
  textEnd: Uint32Array;
  phase: Uint8Array;
}

export interface Frame {
  run: number;
  seq: number;
  since: number;
  firstStep: number;
  nSteps: number;
  layers: number;
  experts: number;
  slots: number;
  promptTokens: number;
  textStart: number;
  text: string;
  steps: StepColumns;
  countIndex: Uint32Array;
  count: Uint32Array;
  changeIndex: Uint32Array;
  changeState: Uint8Array;
  /** Experts that each token chose per layer, and how many of the newest steps have routing. */
  k: number;
  routed: number;
  expertsOf: Uint16Array;
  hitBits: Uint8Array;
  moveStep: Uint32Array;
  move: Uint32Array;
  movesFrom: number;
  callTokens: number;
  callLayers: number;
  /** The step that produced the first generated token, or NO_TOKEN. */
  firstToken: number;
  order: EvictionOrder;
  totals: Totals;
  snapshot: boolean;
  final: boolean;
}

/** Decode a frame. `bytes` must begin at a multiple of 8 in their buffer. */
export function decode(bytes: Uint8Array<ArrayBuffer>): Frame {
  const { buffer, byteOffset, byteLength } = bytes;
  const view = new DataView(buffer, byteOffset, byteLength);
  if (byteLength < HEAD_BYTES + TOTALS_BYTES || view.getUint32(0, true) !== MAGIC) {
    throw new FrameError(`${byteLength} bytes are not a frame`);
  }
  const version = view.getUint16(4, true);
  if (version !== VERSION) {
    throw new FrameError(`frame version ${version} was seen, ${VERSION} is wanted`);
  }
  const flags = view.getUint16(6, true);
  const head = (n: number) => view.getUint32(8 + 4 * n, true);
  const nParts = head(20);
  const [n, textBytes, m, r] = [head(5), head(11), head(12), head(13)];
  const [layers, k, routed, q] = [head(6), head(14), head(15), head(16)];
  if (nParts > MOST_PARTS || layers * Math.max(head(7), k, 1) > MOST_EXPERTS) {
    throw new FrameError(`a frame has ${layers} layers of ${head(7)} experts, ${nParts} parts`);
  }
  const rowBytes = Math.ceil((layers * k) / 8);
  const routing = routed * (2 * layers * k + rowBytes);
  const ordered = head(23);
  const halves = ordered * (layers * head(7) > WIDE ? 2 : 1);
  const known =
    n * (STEP_BYTES + 4 * nParts) + m * 8 + r * 5 + q * 8 + routing + 2 * halves + textBytes;
  const expected = HEAD_BYTES + TOTALS_BYTES + known;
  if (head(0) !== byteLength || expected !== byteLength) {
    throw new FrameError(`a frame of ${head(0)} bytes came as ${byteLength}`);
  }

  let at = byteOffset + HEAD_BYTES + TOTALS_BYTES;
  const skip = (nbytes: number) => {
    const start = at;
    at += nbytes;
    return start;
  };
  const f32 = () => new Float32Array(buffer, skip(4 * n), n);
  const u32 = (length: number) => new Uint32Array(buffer, skip(4 * length), length);
  const u8 = (length: number) => new Uint8Array(buffer, skip(length), length);

  const nbytes = new Float64Array(buffer, skip(8 * n), n);
  const [tokenMs, p50, p95, max] = [f32(), f32(), f32(), f32()];
  const parts = Array.from({ length: nParts }, f32);
  const [hits, misses, reads, textEnd] = [u32(n), u32(n), u32(n), u32(n)];
  const [countIndex, count, changeIndex] = [u32(m), u32(m), u32(r)];
  const [moveStep, move] = [u32(q), u32(q)];
  const expertsOf = new Uint16Array(buffer, skip(2 * routed * layers * k), routed * layers * k);
  const low = new Uint16Array(buffer, skip(2 * halves), halves);
  const experts = new Uint32Array(low.subarray(0, ordered));
  for (let i = ordered; i < halves; i += 1) experts[i - ordered] += low[i] * WIDE;
  const phase = u8(n);
  const changeState = u8(r);
  const totals = totalsIn(view);
  const hitBits = u8(routed * rowBytes);
  return {
    run: head(1),
    seq: head(2),
    since: head(3),
    firstStep: head(4),
    nSteps: n,
    layers,
    experts: head(7),
    slots: head(8),
    promptTokens: head(9),
    textStart: head(10),
    text: new TextDecoder().decode(u8(textBytes)),
    steps: {
      ...{ nbytes, tokenMs, p50, p95, max, parts },
      ...{ hits, misses, reads, textEnd, phase },
    },
    countIndex,
    count,
    changeIndex,
    changeState,
    ...{ k, routed, expertsOf, hitBits, moveStep, move },
    ...{ movesFrom: head(17), callTokens: head(18), callLayers: head(19) },
    firstToken: head(21),
    order: { kind: head(22), experts, pinned: head(24), steps: head(25) },
    totals,
    snapshot: (flags & SNAPSHOT) !== 0,
    final: (flags & FINAL) !== 0,
  };
}

/** Copy a message's buffer, aligned for `decode`; the host may reuse its own. */
export function copyBytes(data: DataView | ArrayBuffer | ArrayBufferView): Uint8Array<ArrayBuffer> {
  const bytes =
    data instanceof ArrayBuffer
      ? new Uint8Array(data)
      : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return new Uint8Array(bytes);
}

function totalsIn(view: DataView): Totals {
  const u64 = (n: number) => Number(view.getBigUint64(HEAD_BYTES + 8 * n, true));
  return {
    steps: u64(0),
    lookups: u64(1),
    hits: u64(2),
    reads: u64(3),
    nbytes: u64(4),
    evictions: u64(5),
    elapsedNs: u64(6),
    decodeSteps: u64(7),
    decodeLookups: u64(8),
    decodeHits: u64(9),
    decodeNs: u64(10),
  };
}
