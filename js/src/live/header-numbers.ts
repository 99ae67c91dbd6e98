// The course of the header's first numbers: a value for each token, in the order of the tiles.

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
  return [
    { from, values: Float32Array.from(ms, (each) => 1000 / each) },
    { from, values: Float32Array.from(hits, (each, i) => each / (each + misses[i])) },
    { from, values: steps.column("nbytes", from, steps.end) },
  ];
}
