// The wire frame: decoded here as Python encodes it.

import { expect, test } from "vitest";
import { copyBytes, decode, type Frame, FrameError } from "../../src/live/frames";
import { encode, Synthetic } from "../synthetic";

const GOLDEN = ["empty", "first", "second", "snapshot", "wide"] as const;

// Vite turns these into URLs that the test's own server answers.
const bins = import.meta.glob("../../../tests/golden/*.bin", { query: "?url", import: "default" });
const jsons = import.meta.glob("../../../tests/golden/*.json", { import: "default" });

async function golden(name: string): Promise<Uint8Array<ArrayBuffer>> {
  const url = (await bins[`../../../tests/golden/${name}.bin`]()) as string;
  return new Uint8Array(await (await fetch(url)).arrayBuffer());
}

/** The frame with the keys of the JSON files, which Python wrote. */
function described(frame: Frame): unknown {
  const list = (values: ArrayLike<number>) =>
    Array.from(values, (value) => (Number.isNaN(value) ? null : value));
  const { steps, totals } = frame;
  return {
    run: frame.run,
    seq: frame.seq,
    since: frame.since,
    first_step: frame.firstStep,
    layers: frame.layers,
    experts: frame.experts,
    slots: frame.slots,
    prompt_tokens: frame.promptTokens,
    text: frame.text,
    text_start: frame.textStart,
    snapshot: frame.snapshot,
    final: frame.final,
    count_index: list(frame.countIndex),
    count: list(frame.count),
    change_index: list(frame.changeIndex),
    change_state: list(frame.changeState),
    experts_of: nested(frame, (i) => frame.expertsOf[i]),
    hits_of: nested(frame, (_, row, bit) => {
      const bytes = Math.ceil((frame.layers * frame.k) / 8);
      return (frame.hitBits[row * bytes + (bit >> 3)] & (1 << (bit & 7))) !== 0;
    }),
    move_step: list(frame.moveStep),
    move: list(frame.move),
    moves_from: frame.movesFrom,
    call_tokens: frame.callTokens,
    call_layers: frame.callLayers,
    first_token: frame.firstToken,
    order_kind: frame.order.kind,
    order: list(frame.order.experts),
    pinned: frame.order.pinned,
    order_steps: frame.order.steps,
    steps: {
      nbytes: list(steps.nbytes),
      token_ms: list(steps.tokenMs),
      read_p50_ms: list(steps.p50),
      read_p95_ms: list(steps.p95),
      read_max_ms: list(steps.max),
      hits: list(steps.hits),
      misses: list(steps.misses),
      reads: list(steps.reads),
      phase: list(steps.phase),
      parts_ms: steps.parts.map(list),
      text_end: list(steps.textEnd),
    },
    totals: {
      steps: totals.steps,
      lookups: totals.lookups,
      hits: totals.hits,
      reads: totals.reads,
      nbytes: totals.nbytes,
      evictions: totals.evictions,
      elapsed_ns: totals.elapsedNs,
      decode_steps: totals.decodeSteps,
      decode_lookups: totals.decodeLookups,
      decode_hits: totals.decodeHits,
      decode_ns: totals.decodeNs,
    },
  };
}

/** One value per step, layer and choice, as nested lists. */
function nested<T>(frame: Frame, value: (i: number, row: number, bit: number) => T): T[][][] {
  const { routed, layers, k } = frame;
  return Array.from({ length: routed }, (_, row) =>
    Array.from({ length: layers }, (_, layer) =>
      Array.from({ length: k }, (_, j) => {
        const bit = layer * k + j;
        return value(row * layers * k + bit, row, bit);
      }),
    ),
  );
}

for (const name of GOLDEN) {
  test(`the golden frame "${name}" decodes to the same values as in Python`, async () => {
    const bytes = await golden(name);
    const json = await jsons[`../../../tests/golden/${name}.json`]();
    expect(described(decode(bytes))).toEqual(json);
    expect(encode(decode(bytes))).toEqual(bytes);
  });
}

test("bytes that are not a frame are refused with a reason", async () => {
  const good = await golden("first");
  const changed = (at: number, value: number) => {
    const bytes = good.slice();
    bytes[at] = value;
    return bytes;
  };
  expect(() => decode(new Uint8Array(0))).toThrow(FrameError);
  expect(() => decode(changed(0, 7))).toThrow(/not a frame/);
  expect(() => decode(changed(4, 5))).toThrow(/version 5 was seen, 4 is wanted/);
  expect(() => decode(changed(4, 3))).toThrow(/version 3 was seen/);
  expect(() => decode(good.slice(0, -1))).toThrow(/came as/);
});

test("a message's bytes are copied from any offset", () => {
  const bytes = encode(new Synthetic(SHAPE).next(2, false));
  const odd = new Uint8Array(bytes.length + 3);
  odd.set(bytes, 3);
  const copy = copyBytes(new DataView(odd.buffer, 3));
  odd.fill(0);
  expect(copy.byteOffset % 8).toBe(0);
  expect(decode(copy).nSteps).toBe(2);
  expect(decode(copyBytes(bytes.buffer)).nSteps).toBe(2);
});

const SHAPE = { layers: 2, experts: 4, k: 2, slots: 4, prompt: 2, expertBytes: 10 };
