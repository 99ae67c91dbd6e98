// The clock of two runs: their tokens by number, so that one playhead shows both.

import { ExpertHistory } from "../live/history";
import { Playback, type Replayed } from "../live/playback";
import type { RunState } from "../live/state";

export class Pair {
  readonly playback: Playback;
  /** What is replayed: as many tokens as the longer run has, by their numbers from 0. */
  readonly tokens: Replayed;

  constructor(private readonly states: readonly [RunState, RunState]) {
    const { states: both } = this;
    const longest = () => Math.max(...both.map((state) => state.generated));
    this.tokens = {
      firstToken: 0,
      // While a prompt is read there is nothing to replay, and no progress of two prompts.
      ...{ promptTokens: 0, layers: 0, callTokens: 0, callLayers: 0 },
      totals: { steps: 0, elapsedNs: 0 },
      get generated() {
        return longest();
      },
      get tokensPerSecond() {
        return Math.min(...both.map((state) => state.tokensPerSecond));
      },
      get final() {
        return both.every((state) => state.final);
      },
      steps: {
        get end() {
          return longest();
        },
        first: 0,
        /** The slower of the two. */
        at: (column, token) =>
          Math.max(...both.map((state) => state.steps.at(column, token + state.firstToken) || 0)),
      },
    };
    const first = () => Math.max(0, ...both.map((state) => firstKept(state) - state.firstToken));
    this.playback = new Playback(this.tokens, {
      get first() {
        return first();
      },
    });
  }

  /** The step of `state` at the playhead: its last if it is shorter; null while both are followed. */
  stepIn(state: RunState): number | null {
    const { at } = this.playback;
    if (at === null || !state.generated) return null;
    return Math.min(at + state.firstToken, state.steps.end - 1);
  }

  /** The first step with other experts, prompt included; null if there is none, or it is not kept. */
  otherExperts(): number | null {
    const [a, b] = this.states.map(({ routing }) => routing);
    if (a.first || b.first || a.width !== b.width || a.layers !== b.layers) return null;
    const differs = (step: number, layer: number) =>
      a.chosen(step, layer).some((expert) => !b.chose(step, layer, expert));
    for (let step = 0; step < Math.min(a.end, b.end); step += 1) {
      for (let layer = 0; layer < a.layers; layer += 1) if (differs(step, layer)) return step;
    }
    return null;
  }

  /** Whether both began with the same experts in RAM; true where that is not kept. */
  beganAlike(): boolean {
    if (this.states.some(({ routing, moves }) => routing.first || moves.from)) return true;
    const [a, b] = this.states.map((state) => new ExpertHistory(state).show(-1).resident);
    return a.length !== b.length || a.every((here, index) => here === b[index]);
  }

  /**
   * The number, from 0, of the first token that differs; null if none is known to. A run that has
   * ended differs where the other goes on.
   */
  parting(over: readonly [boolean, boolean]): number | null {
    const [a, b] = this.states;
    const shared = Math.min(a.generated, b.generated);
    const from = Math.max(0, a.steps.first - a.firstToken, b.steps.first - b.firstToken);
    for (let token = from; token < shared; token += 1) {
      if (a.textOf(token + a.firstToken) !== b.textOf(token + b.firstToken)) return token;
    }
    if (a.generated > shared && over[1]) return shared;
    if (b.generated > shared && over[0]) return shared;
    return null;
  }
}

/** The first step whose experts are known. */
function firstKept(state: RunState): number {
  return Math.max(state.steps.first, state.routing.first - 1, state.moves.from - 1);
}
