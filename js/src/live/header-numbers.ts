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

/** The hit rate of decode, and the bytes read, until a step; null is the end. */
export function until({ steps, totals }: RunState, at: number | null): [number, number] {
  const { decodeHits, decodeLookups, nbytes } = totals;
  let [hits, misses, read] = [0, 0, 0];
  for (let step = at === null ? steps.end : at + 1; step < steps.end; step += 1) {
    hits += steps.at("hits", step);
    misses += steps.at("misses", step);
    read += steps.at("nbytes", step);
  }
  return [(decodeHits - hits) / (decodeLookups - hits - misses), nbytes - read];
}
