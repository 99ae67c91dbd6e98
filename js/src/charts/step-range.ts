// The steps that the charts show, and the axis they share.

import { MARGIN } from "./axes";

export interface StepRange {
  /** Steps [from, to) on the axis; the last ones may not exist yet. */
  from: number;
  to: number;
  /** The step of token 1. */
  origin: number;
  /** Whether the charts show the prompt, as it is read. */
  prompt: boolean;
  /** Whether a user chose these steps: the run has more. */
  zoomed?: boolean;
}

/** The fewest steps on an axis: with fewer the first bars would be too wide. */
export const MIN_STEPS = 24;

/**
 * How many steps an axis has that must show `n` of them: at most a third more. Tokens of a growing
 * run keep their place, and all of them move only now and then.
 */
export function capacityFor(n: number): number {
  let capacity = MIN_STEPS;
  // 24, 32, 48, 64, 96, …
  for (let odd = true; capacity < n; odd = !odd)
    capacity = odd ? (capacity * 4) / 3 : (capacity * 3) / 2;
  return capacity;
}

/** "token 12", or "prompt token 3". */
export function stepName(step: number, shown: Pick<StepRange, "prompt" | "origin">): string {
  return `${shown.prompt ? "prompt token" : "token"} ${step - shown.origin + 1}`;
}

/** The horizontal axis of the charts: converts steps to CSS pixels and back. */
export class Axis {
  readonly x = MARGIN.left;
  readonly width: number;

  constructor(
    readonly shown: StepRange,
    canvasWidth: number,
  ) {
    this.width = canvasWidth - MARGIN.left - MARGIN.right;
  }

  left(step: number): number {
    const { from, to } = this.shown;
    return this.x + ((step - from) / (to - from)) * this.width;
  }

  step(x: number): number {
    const { from, to } = this.shown;
    return Math.floor(from + ((x - this.x) / this.width) * (to - from));
  }
}
