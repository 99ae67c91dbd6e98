// The experts that arrived or were evicted with the newest few tokens.

import type { Moved } from "../charts/marks";
import { RECENT_STEPS } from "./limits";
import type { MoveLog } from "./logs";

/** The last move of each expert that moved within RECENT_STEPS tokens up to `step`. */
export function recentMoves(moves: MoveLog, step: number): Moved[] {
  const seen = new Set<number>();
  const out: Moved[] = [];
  for (let n = moves.endOf(step) - 1; n >= moves.begin; n -= 1) {
    const age = Math.max(0, step - moves.stepOf(n));
    if (age >= RECENT_STEPS) break;
    const index = moves.expertOf(n);
    if (!seen.has(index)) out.push({ index, arrived: moves.arrived(n), age });
    seen.add(index);
  }
  return out;
}

/** The step at which an expert that is in RAM after `step` arrived; null if that is not kept. */
export function arrivedAt(moves: MoveLog, index: number, step: number): number | null {
  for (let n = moves.endOf(step) - 1; n >= moves.begin; n -= 1) {
    if (moves.expertOf(n) === index) return moves.arrived(n) ? moves.stepOf(n) : null;
  }
  return null;
}
