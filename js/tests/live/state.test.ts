// The fold of frames into a run's state.

import { expect, test } from "vitest";
import { stepName } from "../../src/charts/step-range";
import { stepRange } from "../../src/live/draw-input";
import { usualMs } from "../../src/live/explain-words";
import { type Frame, NO_TOKEN } from "../../src/live/frames";
import { KEPT_STEPS } from "../../src/live/limits";
import { KEPT_MOVES, MoveLog, RoutingLog, StepLog } from "../../src/live/logs";
import { recentMoves } from "../../src/live/recent-moves";
import { RunState } from "../../src/live/state";
import { noSteps, Synthetic } from "../synthetic";

const SHAPE = { layers: 3, experts: 8, k: 2, slots: 9, prompt: 4, expertBytes: 10 };

function frames(n: number): Frame[] {
  const run = new Synthetic(SHAPE);
  return [run.next(SHAPE.prompt, false), ...Array.from({ length: n }, () => run.next(1, true))];
}

/** The snapshot that Python sends after `all`. */
function snapshotOf(all: Frame[]): Frame {
  const state = new RunState();
  for (const frame of all) state.apply(frame);
  const last = all[all.length - 1];
  const index = Uint32Array.from(state.counts.keys());
  const here = index.filter((i) => state.resident[i] > 0);
  const n = state.steps.length;
  const steps = noSteps(n);
  for (const name of Object.keys(steps) as (keyof typeof steps)[]) {
    if (name !== "parts") steps[name].set(state.steps.column(name, 0, n));
  }
  steps.parts.forEach((column, i) => {
    column.set(state.steps.part(i, 0, n));
  });
  const routed = state.routing.length;
  const expertsOf = Uint16Array.from(
    Array.from({ length: routed * SHAPE.layers }, (_, i) => [
      ...state.routing.chosen(Math.floor(i / SHAPE.layers), i % SHAPE.layers),
    ]).flat(),
  );
  return {
    ...last,
    ...{ since: 0, firstStep: 0, nSteps: n, steps, text: state.text, textStart: 0 },
    ...{ countIndex: index, count: state.counts, changeIndex: here, snapshot: true },
    changeState: new Uint8Array(here.length).fill(1),
    ...{
      routed,
      expertsOf,
      hitBits: new Uint8Array(routed * Math.ceil((SHAPE.layers * SHAPE.k) / 8)),
    },
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
  expect(state.firstToken).toBe(SHAPE.prompt - 1);
  expect(state.generated).toBe(21);
});

test("the median time of an even number of tokens is the mean of the two in the middle", () => {
  const usual = (tokens: number) => {
    const state = new RunState();
    frames(tokens).forEach((frame, n) => {
      if (n) frame.steps.tokenMs[0] = n;
      state.apply(frame);
    });
    return usualMs(state);
  };
  expect([usual(4), usual(5), usual(0)]).toEqual([2.5, 3, Number.NaN]);
});

test("a lost frame is noticed, and a snapshot repairs the state", () => {
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

/** A snapshot bounded to its newest steps, as Python's are. */
function bounded(whole: Frame, keep: number): Frame {
  const dropped = whole.nSteps - keep;
  const steps = noSteps(keep);
  for (const name of Object.keys(steps) as (keyof typeof steps)[]) {
    if (name !== "parts") steps[name].set(whole.steps[name].subarray(dropped));
  }
  const textStart = whole.steps.textEnd[dropped];
  const routed = keep >> 1;
  const [width, bytes] = [SHAPE.layers * SHAPE.k, Math.ceil((SHAPE.layers * SHAPE.k) / 8)];
  return {
    ...whole,
    ...{ firstStep: dropped, nSteps: keep, steps, movesFrom: dropped + 2, routed },
    ...{ text: whole.text.slice(textStart), textStart },
    expertsOf: whole.expertsOf.slice((whole.nSteps - routed) * width),
    hitBits: whole.hitBits.slice((whole.nSteps - routed) * bytes),
    ...{ move: new Uint32Array(0), moveStep: new Uint32Array(0) },
  };
}

test("a bounded snapshot leaves what the page has from before it", () => {
  const all = frames(30);
  const known = all.slice(0, 29);
  const state = new RunState();
  for (const frame of known) state.apply(frame);
  const { textEpoch } = state;
  const moved = state.moves.endOf(SHAPE.prompt + 21);
  expect(state.apply(bounded({ ...snapshotOf(all), final: true }, 10))).toBe("applied");
  const whole = new RunState();
  for (const frame of all) whole.apply(frame);
  expect([state.steps.first, state.steps.end]).toEqual([0, whole.steps.end]);
  expect([state.routing.first, state.routing.end]).toEqual([0, whole.routing.end]);
  for (let step = 0; step < whole.steps.end; step += 1) {
    expect(state.textOf(step)).toBe(whole.textOf(step));
    expect(state.routing.chosen(step, 1)).toEqual(whole.routing.chosen(step, 1));
    expect(state.steps.at("tokenMs", step)).toBe(whole.steps.at("tokenMs", step));
  }
  // Moves of the steps before those of the snapshot.
  expect([state.moves.from, state.moves.end]).toEqual([0, state.moves.endOf(SHAPE.prompt + 25)]);
  expect(state.moves.endOf(SHAPE.prompt + 21)).toBe(moved);
  expect([state.text, state.textEpoch]).toEqual([whole.text, textEpoch]);
  expect([state.counts, state.resident, state.final]).toEqual([whole.counts, whole.resident, true]);
});

test("a snapshot that does not continue what the page has replaces all of it", () => {
  const all = frames(30);
  const state = new RunState();
  for (const frame of all.slice(0, 5)) state.apply(frame);
  expect(state.apply(bounded(snapshotOf(all), 10))).toBe("applied");
  expect(state.steps.first).toBe(state.steps.end - 10);
  expect(state.moves.from).toBe(state.steps.first + 2);
  expect(state.routing.length).toBe(5);
});

test("frames that are known already change nothing", () => {
  const all = frames(6);
  const state = new RunState();
  for (const frame of all) state.apply(frame);
  const [seq, text, counts] = [state.seq, state.text, state.counts.slice()];
  expect(state.apply(all[3])).toBe("old");
  expect(state.apply(snapshotOf(all))).toBe("old");
  expect(state.apply(snapshotOf(all.slice(0, 3)))).toBe("old");
  expect([state.seq, state.text, state.counts]).toEqual([seq, text, counts]);
});

test("another run starts from nothing", () => {
  const state = new RunState();
  for (const frame of frames(5)) state.apply(frame);
  const other = { ...frames(0)[0], run: 2 };
  expect(state.apply(other)).toBe("applied");
  expect(state.seq).toBe(1);
  expect(state.text).toBe(other.text);
  expect(state.steps.length).toBe(SHAPE.prompt);
});

test("an expert that was in RAM from the start did not arrive", () => {
  const first = { ...frames(0)[0], move: new Uint32Array(0), moveStep: new Uint32Array(0) };
  const state = new RunState();
  state.apply(first);
  expect(state.residentCount).toBeGreaterThan(0);
  expect(recentMoves(state.moves, state.steps.end - 1)).toEqual([]);
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

test("the logs of routing and moves keep the newest entries, and say where they begin", () => {
  const one = frames(1)[1];
  const [routing, moves] = [new RoutingLog(), new MoveLog()];
  const total = 3 * KEPT_STEPS;
  for (let step = 0; step < total; step += 1) {
    one.expertsOf[0] = step % 8;
    routing.append({ ...one, firstStep: step });
  }
  expect(routing.end).toBe(total);
  expect(routing.length).toBeGreaterThanOrEqual(KEPT_STEPS);
  expect(routing.length).toBeLessThanOrEqual(2 * KEPT_STEPS);
  for (const step of [routing.first, total - 1]) expect(routing.chosen(step, 0)[0]).toBe(step % 8);
  expect(routing.chosen(routing.first - 1, 0)).toHaveLength(0);
  // A frame that lacks the routing of its first steps leaves no gap behind.
  routing.append({ ...one, firstStep: total, nSteps: 5 });
  expect([routing.first, routing.length]).toEqual([total + 4, 1]);

  const many = 1024;
  const move = Uint32Array.from({ length: many }, (_, i) => i);
  for (let step = 0; step < (3 * KEPT_MOVES) / many; step += 1) {
    moves.append({ ...one, move, moveStep: new Uint32Array(many).fill(step) });
  }
  expect(moves.end).toBe(3 * KEPT_MOVES);
  expect(moves.from).toBeGreaterThan(0);
  expect(moves.stepOf(moves.begin)).toBeLessThanOrEqual(moves.from);
  expect([moves.expertOf(moves.end - 1), moves.arrived(moves.end - 1)]).toEqual([511, true]);
});

test("a step's text is cut in UTF-16 units", () => {
  const all = frames(3);
  const state = new RunState();
  for (const frame of all) state.apply(frame);
  const texts = Array.from({ length: 3 }, (_, i) => state.textOf(SHAPE.prompt + i));
  expect(texts).toEqual(all.slice(1).map((frame) => frame.text));
  expect(state.textOf(0)).toBe("");
});

test("charts begin at the prompt, and move to the answer once there is one", () => {
  const run = new Synthetic(SHAPE);
  const state = new RunState();
  const prompt = run.next(SHAPE.prompt, false);
  state.apply({ ...prompt, firstToken: NO_TOKEN });
  expect(stepRange(state)).toMatchObject({ from: 0, origin: 0, prompt: true });
  expect(stepName(2, stepRange(state))).toBe("prompt token 3");
  const alone = new RunState();
  alone.apply(prompt);
  expect([alone.generated, stepName(SHAPE.prompt - 1, stepRange(alone))]).toEqual([1, "token 1"]);
  state.apply(run.next(1, true));
  expect(stepRange(state)).toMatchObject({
    ...{ from: SHAPE.prompt - 1, origin: SHAPE.prompt - 1, prompt: false },
  });
  expect(stepName(SHAPE.prompt, stepRange(state))).toBe("token 2");
});
