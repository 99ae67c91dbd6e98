// The course of the header's four numbers: a value for each token, in the order of the tiles.

import type { RunState } from "./state";

export interface Course {
  /** The step of the first value. */
  from: number;
  values: ArrayLike<number>;
}

export function courses(state: RunState): Course[] {
  const { steps, firstToken } = state;
  const from = Math.max(firstToken, steps.first);
  const ms = steps.column("tokenMs", from, steps.end);
  const hits = steps.column("hits", from, steps.end);
  const misses = steps.column("misses", from, steps.end);
  const prompt = state.generated ? firstToken + 1 : steps.end;
  return [
    { from, values: Float32Array.from(ms, (each) => 1000 / each) },
    { from, values: Float32Array.from(hits, (each, i) => each / (each + misses[i])) },
    { from, values: steps.column("nbytes", from, steps.end) },
    // The time of each prompt token: their sum is the time to the first token.
    { from: steps.first, values: steps.column("tokenMs", steps.first, prompt) },
  ];
}
