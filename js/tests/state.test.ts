import { expect, test } from "vitest";
import { KEPT_STEPS } from "../src/constants";
import type { Frame } from "../src/frames";
import { span, stepName } from "../src/span";
import { RunState, StepLog } from "../src/state";
import { noSteps, Synthetic } from "./synthetic";

const SHAPE = { layers: 3, experts: 8, k: 2, slots: 9, prompt: 4, expertBytes: 10 };

function frames(n: number): Frame[] {
  const run = new Synthetic(SHAPE);
  return [run.next(SHAPE.prompt, false), ...Array.from({ length: n }, () => run.next(1, true))];
}

/** What Python would send as a snapshot after `all`. */
function snapshotOf(all: Frame[]): Frame {
  const state = new RunState();
  for (const frame of all) state.apply(frame);
  const last = all[all.length - 1];
  const index = Uint32Array.from(state.counts.keys());
  const here = index.filter((i) => state.resident[i] > 0);
  const n = state.steps.length;
  const steps = noSteps(n);
  for (const name of Object.keys(steps) as (keyof typeof steps)[]) {
    steps[name].set(state.steps.column(name, 0, n));
  }
  return {
    ...last,
    ...{ since: 0, firstStep: 0, nSteps: n, steps, text: state.text, textStart: 0 },
    ...{ countIndex: index, count: state.counts, changeIndex: here, snapshot: true },
    changeState: new Uint8Array(here.length).fill(1),
  };
}

test("the state is the sum of the frames", () => {
  const all = frames(20);
  const state = new RunState();
  for (const frame of all) expect(state.apply(frame)).toBe("applied");
  const chosen = state.counts.reduce((a, b) => a + b, 0);
  expect(chosen).toBe(SHAPE.layers * SHAPE.k * (SHAPE.prompt + 20));
  expect(state.layerTotals.reduce((a, b) => a + b, 0)).toBe(chosen);
  expect(state.maxCount).toBe(Math.max(...state.counts));
  expect(state.residentCount).toBe(state.resident.reduce((a, b) => a + b, 0));
  expect(state.text).toBe(all.map((frame) => frame.text).join(""));
  expect(state.steps.end).toBe(SHAPE.prompt + 20);
  expect(state.firstDecodeStep).toBe(SHAPE.prompt);
});

test("a lost frame is noticed, and a snapshot mends it", () => {
  const all = frames(10);
  const state = new RunState();
  for (const frame of all.slice(0, 5)) state.apply(frame);
  expect(state.apply(all[6])).toBe("gap");
  expect(state.stale).toBe(true);
  expect(state.apply(all[7])).toBe("gap");
  expect(state.apply(snapshotOf(all.slice(0, 9)))).toBe("applied");
  expect(state.stale).toBe(false);
  expect(state.apply(all[9])).toBe("applied");
  const whole = new RunState();
  for (const frame of all.slice(0, 10)) whole.apply(frame);
  expect(state.counts).toEqual(whole.counts);
  expect(state.resident).toEqual(whole.resident);
  expect(state.text).toBe(whole.text);
});

test("frames that are known already change nothing", () => {
  const all = frames(6);
  const state = new RunState();
  for (const frame of all) state.apply(frame);
  const version = state.version;
  expect(state.apply(all[3])).toBe("old");
  expect(state.apply(snapshotOf(all))).toBe("old");
  expect(state.apply(snapshotOf(all.slice(0, 3)))).toBe("old");
  expect(state.version).toBe(version);
});

test("another run starts from nothing", () => {
  const state = new RunState();
  for (const frame of frames(5)) state.apply(frame);
  const other = { ...frames(0)[0], run: 2 };
  expect(state.apply(other)).toBe("applied");
  expect(state.seq).toBe(1);
  expect(state.text).toBe("");
  expect(state.steps.length).toBe(SHAPE.prompt);
});

test("what was in RAM from the start has not arrived", () => {
  const first = frames(0)[0];
  const state = new RunState();
  state.apply(first);
  expect(state.residentCount).toBeGreaterThan(0);
  for (const index of first.changeIndex) expect(state.isRecent(index)).toBe(false);
});

test("the log of steps keeps the newest, in order", () => {
  const log = new StepLog();
  const one = noSteps(1);
  const total = 3 * KEPT_STEPS;
  for (let step = 0; step < total; step += 1) {
    one.hits[0] = step;
    log.append(one, 1);
  }
  expect(log.end).toBe(total);
  expect(log.length).toBeGreaterThanOrEqual(KEPT_STEPS);
  expect(log.at("hits", total - 1)).toBe(total - 1);
  expect(log.at("hits", log.first)).toBe(log.first);
  expect(log.at("hits", log.first - 1)).toBeNaN();
  expect(log.column("hits", total - 3, total + 9)).toEqual(
    Uint32Array.of(total - 3, total - 2, total - 1),
  );
  log.append(noSteps(5 * KEPT_STEPS), 5 * KEPT_STEPS);
  expect(log.end).toBe(8 * KEPT_STEPS);
});

test("charts begin at the prompt, and move to the answer when there is one", () => {
  const run = new Synthetic(SHAPE);
  const state = new RunState();
  state.apply(run.next(SHAPE.prompt, false));
  expect(span(state)).toMatchObject({ from: 0, origin: 0, prompt: true });
  expect(stepName(2, span(state))).toBe("prompt 3");
  state.apply(run.next(1, true));
  expect(span(state)).toMatchObject({ from: SHAPE.prompt, origin: SHAPE.prompt, prompt: false });
  expect(stepName(SHAPE.prompt, span(state))).toBe("token 1");
});
