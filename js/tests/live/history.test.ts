// Scrubbing back: the experts after earlier steps, replay, and the progress of a prompt.

import { expect, test } from "vitest";
import { Checkpoints } from "../../src/live/checkpoints";
import type { Frame } from "../../src/live/frames";
import { ExpertHistory } from "../../src/live/history";
import { Playback, READING_PACE, SPEEDS } from "../../src/live/playback";
import { RunState } from "../../src/live/state";
import { promptRead } from "../../src/live/transport";
import { Synthetic } from "../synthetic";

const SHAPE = { layers: 3, experts: 8, k: 2, slots: 9, prompt: 4, expertBytes: 10 };

function frames(n: number): Frame[] {
  const run = new Synthetic(SHAPE);
  return [run.next(SHAPE.prompt, false), ...Array.from({ length: n }, () => run.next(1, true))];
}

function stateOf(all: Frame[]): RunState {
  const state = new RunState();
  for (const frame of all) state.apply(frame);
  return state;
}

test("the history at a step is the state after it, whichever step was shown before", () => {
  const all = frames(30);
  const history = new ExpertHistory(stateOf(all));
  for (const token of [20, 5, 6, 7, 30, 1, 29, 28, 0]) {
    const then = stateOf(all.slice(0, token + 1));
    history.show(SHAPE.prompt + token - 1);
    expect(history.counts).toEqual(then.counts);
    expect(history.layerTotals).toEqual(then.layerTotals);
    expect(history.maxCount).toBe(then.maxCount);
    expect(history.resident).toEqual(then.resident);
    expect(history.residentCount).toBe(then.residentCount);
  }
});

test("only steps whose routing and moves are kept have their experts", () => {
  const state = stateOf(frames(30));
  const history = new ExpertHistory(state);
  expect(history.after(SHAPE.prompt + 9)?.resident).toEqual(
    stateOf(frames(30).slice(0, 11)).resident,
  );
  state.moves.from = SHAPE.prompt + 5;
  expect(history.after(SHAPE.prompt + 3)).toBeNull();
  expect(history.after(SHAPE.prompt + 4)).not.toBeNull();
  expect(history.after(state.steps.end)).toBeNull();
});

test("the history of a step stays the same while the run continues", () => {
  const all = frames(30);
  const state = stateOf(all.slice(0, 12));
  const history = new ExpertHistory(state);
  const then = history.show(SHAPE.prompt + 4).counts.slice();
  for (const frame of all.slice(12)) state.apply(frame);
  expect(history.show(SHAPE.prompt + 4).counts).toEqual(then);
  expect(history.show(state.steps.end - 1).resident).toEqual(state.resident);
});

test("after any jump the history is as if every step had been walked", () => {
  const state = new RunState();
  const run = new Synthetic(SHAPE);
  const then: { counts: Uint32Array; resident: Uint8Array }[] = [];
  state.apply(run.next(SHAPE.prompt, false));
  for (let token = 0; token < 1_500; token += 1) {
    then.push({ counts: state.counts.slice(), resident: state.resident.slice() });
    state.apply(run.next(1, true));
  }
  const histories = [new ExpertHistory(state), new ExpertHistory(state)]; // as a view has
  let token = 0;
  for (let jump = 0; jump < 200; jump += 1) {
    token = (7 * token + 61 * jump + 13) % then.length;
    const history = histories[jump % 3 ? 0 : 1];
    history.show(SHAPE.prompt + token - 1);
    expect(history.counts).toEqual(then[token].counts);
    expect(history.resident).toEqual(then[token].resident);
    const sums = Array.from({ length: SHAPE.layers }, (_, layer) =>
      then[token].counts.slice(8 * layer, 8 * layer + 8).reduce((a, b) => a + b, 0),
    );
    expect([...history.layerTotals]).toEqual(sums);
    expect(history.residentCount).toBe(then[token].resident.reduce((a, b) => a + b, 0));
  }
});

test("checkpoints are few, however long the run, and made while it grows", () => {
  const state = new RunState();
  const run = new Synthetic({ ...SHAPE, layers: 1, k: 1 });
  const [history, checkpoints] = [new ExpertHistory(state), Checkpoints.of(state)];
  state.apply(run.next(SHAPE.prompt, false));
  for (let token = 0; token < 20_000; token += 1) {
    state.apply(run.next(1, true));
    history.keepUp();
  }
  expect(checkpoints.size).toBeLessThanOrEqual(64);
  expect(checkpoints.size * checkpoints.every).toBeGreaterThan(19_000);
});

test("checkpoints of a run that was there already are made one by one, back to its beginning", () => {
  const all = frames(1_500);
  const state = stateOf(all);
  const history = new ExpertHistory(state);
  let slices = 0;
  while (history.keepUp()) slices += 1;
  const checkpoints = Checkpoints.of(state);
  expect([checkpoints.size, slices]).toEqual([6, 6]);
  expect(history.show(1).counts.reduce((a, b) => a + b)).toBe(2 * SHAPE.layers * SHAPE.k);
});

test("a hover while a chunk of the prompt is read counts nothing twice", () => {
  const run = new Synthetic(SHAPE);
  const [first, second] = [run.next(8, false), run.next(8, false)];
  const state = stateOf([first]);
  const whole = stateOf([first, second]);
  const half = second.count.map((n) => n >> 1);
  const open = { ...new Synthetic(SHAPE).next(0, false), since: 1, seq: 2, firstStep: 8 };
  const { countIndex } = second;
  state.apply({ ...open, countIndex, count: half, callTokens: 8, callLayers: 1 });
  const history = new ExpertHistory(state);
  history.after(5);
  const rest = second.count.map((n, i) => n - half[i]);
  state.apply({ ...second, seq: 3, since: 2, count: rest });
  expect(state.counts).toEqual(whole.counts);
  expect(history.after(15)?.counts).toEqual(whole.counts);
});

for (const [name, shape] of Object.entries({
  demo: { layers: 6, experts: 32, k: 4, slots: 96, prompt: 14, expertBytes: 200_000 },
  large: { layers: 48, experts: 128, k: 8, slots: 2_600, prompt: 23, expertBytes: 2_654_208 },
})) {
  test(`10,000 tokens of the ${name} model can be scrubbed from the first`, {
    timeout: 60_000,
  }, () => {
    const run = new Synthetic(shape);
    run.ordered = false;
    run.ordered = false;
    const state = new RunState();
    state.apply(run.next(shape.prompt, false));
    const [counts, resident] = [state.counts.slice(), state.resident.slice()];
    for (let token = 0; token < 10_000; token += 1) state.apply(run.next(1, true));
    const history = new ExpertHistory(state);
    const playback = new Playback(state, history);
    expect(playback.range).toEqual([shape.prompt - 1, shape.prompt + 9_999]);
    playback.key("Home");
    history.show(playback.at!);
    expect(history.counts).toEqual(counts);
    expect(history.resident).toEqual(resident);
  });
}

test("moves of a call in progress are not part of the history", () => {
  const all = frames(10);
  const state = stateOf(all);
  const here = state.resident.slice();
  const index = here.indexOf(0);
  const open = new Synthetic(SHAPE).next(0, true);
  state.apply({
    ...open,
    ...{ seq: state.seq + 1, since: state.seq, firstStep: state.steps.end, callTokens: 1 },
    ...{ changeIndex: Uint32Array.of(index), changeState: Uint8Array.of(1) },
    ...{ moveStep: Uint32Array.of(state.steps.end), move: Uint32Array.of(2 * index + 1) },
  });
  expect(state.resident[index]).toBe(1);
  expect(new ExpertHistory(state).show(state.steps.end - 1).resident).toEqual(here);
});

test("a run replays at its own speed or faster, and is then followed", () => {
  const state = stateOf(frames(10));
  const playback = new Playback(state, new ExpertHistory(state));
  const [first, last] = playback.range;
  expect([first, last]).toEqual([SHAPE.prompt - 1, SHAPE.prompt + 9]);
  playback.toggle(0);
  expect(playback.at).toBe(first);
  const spent = state.steps.at("tokenMs", first + 1);
  playback.tick(spent - 1);
  expect(playback.at).toBe(first);
  playback.tick(spent + 1);
  expect(playback.at).toBe(first + 1);
  playback.toggle(spent + 1);
  playback.tick(spent + 900);
  expect(playback.at).toBe(first + 1);
  playback.speed = 16;
  playback.toggle(5000);
  playback.tick(5900);
  expect([playback.at, playback.playing]).toEqual([null, false]);
});

test("a pace is the same for every token, and waits for those that do not exist yet", () => {
  const all = frames(40);
  const state = stateOf(all.slice(0, 5));
  const playback = new Playback(state, new ExpertHistory(state));
  const first = SHAPE.prompt - 1;
  let now = 0;
  const after = (ms: number) => {
    now += ms;
    playback.tick(now);
    return playback.at;
  };
  playback.playAt(8, now);
  expect(after(124)).toBe(first);
  expect(after(1)).toBe(first + 1);
  expect(after(375)).toBe(first + 4);
  for (let i = 0; i < 9; i += 1) expect(after(900)).toBe(first + 4); // nothing after it exists
  for (const frame of all.slice(5, 40)) state.apply(frame);
  expect(after(0)).toBe(first + 5); // at once; the time that was waited is not caught up
  expect(after(125)).toBe(first + 6);
  for (let i = 0; i < 40; i += 1) after(125);
  expect([after(0), playback.playing]).toEqual([first + 39, true]);
  state.apply({ ...all[40], final: true });
  expect(after(125)).toBeNull(); // the run is over: its end is followed
  expect(playback.playing).toBe(false);
});

test("a run too fast to follow is replayed at a reading pace, unless a speed is chosen", () => {
  const state = stateOf(frames(20));
  state.totals = { ...state.totals, decodeSteps: 20, decodeNs: 20e6 };
  const playback = new Playback(state, new ExpertHistory(state));
  playback.toggle(0);
  expect(playback.pace).toBe(READING_PACE);
  playback.toggle(0);
  playback.choose({ times: 1 / 8 });
  playback.toggle(0);
  expect([playback.pace, playback.speed]).toEqual([null, 1 / 8]);
  expect(SPEEDS).toEqual([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16]);
});

test("scrubbing stays within the steps kept", () => {
  const state = stateOf(frames(10));
  const playback = new Playback(state, new ExpertHistory(state));
  playback.moveTo(-5);
  expect(playback.at).toBe(SHAPE.prompt - 1);
  playback.moveTo(999);
  expect(playback.at).toBe(state.steps.end - 1);
  state.moves.from = SHAPE.prompt + 5;
  playback.moveTo(0);
  expect(playback.at).toBe(SHAPE.prompt + 4);
  const empty = new Playback(new RunState(), new ExpertHistory(new RunState()));
  empty.toggle(0);
  empty.tick(1);
  expect([empty.ready, empty.at]).toEqual([false, null]);
});

test("a prompt's progress counts the layers of the call that reads it", () => {
  const state = stateOf([{ ...frames(0)[0], promptTokens: 20, callTokens: 9, callLayers: 2 }]);
  expect(promptRead(state)).toBe(SHAPE.prompt + 6);
});
