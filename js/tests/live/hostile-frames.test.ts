// Frames from strangers: a saved notebook has some. Decoded and folded, they are frames or refused.

import { expect, test } from "vitest";
import { copyBytes, decode, FrameError } from "../../src/live/frames";
import { RunState } from "../../src/live/state";

const bins = import.meta.glob("../../../tests/golden/*.bin", { query: "?url", import: "default" });
const NUMBERS = [0, 1, 2, 7, 255, 256, 65535, 65536, 2 ** 24, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1];
const HEAD = 28;
const TRIES = 1_000;

async function all(): Promise<Uint8Array<ArrayBuffer>[]> {
  const urls = await Promise.all(Object.values(bins).map((each) => each() as Promise<string>));
  const bodies = await Promise.all(urls.map(async (url) => (await fetch(url)).arrayBuffer()));
  return bodies.map((body) => new Uint8Array(body));
}

/** Random numbers that are the same each time (mulberry32). */
function drawn(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** A frame with other bytes, or another number in its head, whose length is right again. */
function changed(good: Uint8Array<ArrayBuffer>, draw: (below: number) => number) {
  let bytes = copyBytes(good);
  for (let times = 1 + draw(3); times > 0; times -= 1) {
    const what = draw(6);
    const view = new DataView(bytes.buffer);
    if (what === 0) bytes[draw(bytes.length)] ^= 1 << draw(8);
    else if (what === 1) bytes = bytes.slice(0, draw(bytes.length) + 1);
    else if (what === 2) {
      const longer = new Uint8Array(bytes.length + draw(64));
      longer.set(bytes);
      bytes = longer;
    } else if (bytes.length > 4 * HEAD + 8) {
      view.setUint32(8 + 4 * draw(26), NUMBERS[draw(NUMBERS.length)], true);
    }
    if (bytes.length > 12) new DataView(bytes.buffer).setUint32(8, bytes.length, true);
  }
  return bytes;
}

/** What a page does with a frame; null if it is refused. */
function taken(bytes: Uint8Array<ArrayBuffer>, state: RunState): string | null {
  try {
    return state.apply(decode(bytes));
  } catch (error) {
    if (error instanceof FrameError) return null;
    throw error;
  }
}

test("a changed frame is read or refused, and the state stays one that can be drawn", async () => {
  const good = await all();
  const draw = drawn(1);
  const seen: Record<string, number> = {};
  for (let number = 0; number < TRIES; number += 1) {
    const state = new RunState();
    if (draw(2)) taken(good[draw(good.length)], state);
    const what = taken(changed(good[draw(good.length)], draw), state);
    seen[String(what)] = (seen[String(what)] ?? 0) + 1;
    const size = Math.max(0, state.layers * state.experts);
    if (state.counts.length !== size || state.resident.length !== size)
      throw new Error(`${state.counts.length} counts of ${size} experts`);
    state.textOf(0);
  }
  expect(seen.applied).toBeGreaterThan(TRIES / 20);
  expect(seen.null).toBeGreaterThan(TRIES / 20);
});

test("a head that claims parts, layers or experts without number is refused at once", async () => {
  const [empty] = (await all()).sort((one, other) => one.length - other.length);
  for (const [at, number] of [
    [20, 2 ** 32 - 1],
    [6, 2 ** 32 - 1],
    [7, 2 ** 32 - 1],
  ]) {
    const bytes = copyBytes(empty);
    const view = new DataView(bytes.buffer);
    view.setUint32(8 + 4 * at, number, true);
    for (const other of [6, 7])
      if (at !== 20 && other !== at) view.setUint32(8 + 4 * other, 1e6, true);
    expect(() => new RunState().apply(decode(bytes)), `number ${at}`).toThrow(FrameError);
  }
});
