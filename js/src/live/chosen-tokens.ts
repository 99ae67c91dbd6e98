// From tokens to their experts, and from experts to their tokens.

import type { Cell } from "../charts/focus";
import type { ExpertStates, RunState } from "./state";

/** How many of some tokens chose each expert. */
export interface ChosenCounts
  extends Pick<ExpertStates, "counts" | "layerTotals" | "maxCount" | "chosenCount"> {
  /** How many of the tokens have their routing kept. */
  known: number;
  /** How many experts all of these chose. */
  shared: number;
}

/** Count for each expert the tokens of `steps` that chose it. */
export function countsOf(state: RunState, steps: readonly number[]): ChosenCounts {
  const counts = new Uint32Array(state.layers * state.experts);
  const layerTotals = new Float64Array(state.layers);
  const seen = new Int32Array(counts.length).fill(-1);
  let known = 0;
  for (const step of steps) {
    known += Number(state.routing.has(step));
    state.routing.forEach(step, state.experts, (index) => {
      if (seen[index] === step) return;
      seen[index] = step;
      counts[index] += 1;
      layerTotals[Math.floor(index / state.experts)] += 1;
    });
  }
  let [maxCount, chosenCount, shared] = [0, 0, 0];
  for (const count of counts) {
    if (!count) continue;
    chosenCount += 1;
    if (count === known) shared += 1;
    if (count > maxCount) maxCount = count;
  }
  return { counts, layerTotals, maxCount, chosenCount, known, shared };
}

/** The steps that chose any of some experts, and how many of the generated tokens did. */
export interface Users {
  steps: readonly number[];
  /** Of the generated tokens whose routing is kept: how many chose any, how many all, of how many. */
  any: number;
  all: number;
  of: number;
}

export function usersOf(state: RunState, cells: readonly Cell[]): Users {
  const { routing } = state;
  const steps: number[] = [];
  let [any, all] = [0, 0];
  for (let step = routing.first; step < routing.end; step += 1) {
    let n = 0;
    for (const { layer, expert } of cells) n += Number(routing.chose(step, layer, expert!));
    if (!n) continue;
    steps.push(step);
    if (step < state.firstToken) continue;
    any += 1;
    all += Number(n === cells.length);
  }
  return {
    steps,
    any,
    all,
    of: Math.max(0, routing.end - Math.max(routing.first, state.firstToken)),
  };
}
