// Which steps the charts show, and what a step is called.
//
// Once tokens are generated the charts begin at the step that produced the first: a long prompt
// would otherwise fill them, and what it costs is paid in chunks. Until then they show the prompt as
// it is read.

import { MARGIN, MIN_SPAN } from "../live/limits";
import type { RunState } from "../live/state";

export interface Span {
  /** Steps [from, to) on the axis; the last of them may not have happened yet. */
  from: number;
  to: number;
  /** Number of the step that is token 1. */
  origin: number;
  prompt: boolean;
  /** The last step that is shown, when the run is scrubbed back; null while it is followed. */
  until: number | null;
}

export function span(state: RunState, until: number | null = null): Span {
  const prompt = state.generated === 0;
  const origin = prompt ? 0 : state.firstToken;
  const from = Math.max(origin, state.steps.first);
  const end = state.steps.end;
  const to = state.final ? Math.max(end, from + MIN_SPAN) : from + roomFor(end - from);
  return { from, to, origin, prompt, until };
}

/**
 * How many steps an axis has room for that must show `n`: a third more at most. So a run that goes
 * on has its tokens stay where they are, and only now and then are all of them moved.
 */
export function roomFor(n: number): number {
  let room = MIN_SPAN;
  // 24, 32, 48, 64, 96, …
  for (let odd = true; room < n; odd = !odd) room = odd ? (room * 4) / 3 : (room * 3) / 2;
  return room;
}

/** "token 12", or "prompt 3". */
export function stepName(step: number, shown: Span): string {
  return `${shown.prompt ? "prompt" : "token"} ${step - shown.origin + 1}`;
}

/** The horizontal axis shared by the charts: steps to CSS pixels and back. */
export class Axis {
  readonly x = MARGIN.left;
  readonly width: number;

  constructor(
    readonly shown: Span,
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
