// When each expert of one layer was in RAM: the spans that the bands show.

import { same } from "../widget/same";
import type { RunState } from "./state";

/** An expert in RAM from its arrival, in step `from`, to its eviction, in step `to`. */
export interface Span {
  expert: number;
  from: number;
  to: number;
  /** Whether it arrived at `from`, and was evicted at `to`; else it was there before, or still is. */
  arrived: boolean;
  evicted: boolean;
}

export class LayerBands {
  layer = -1;
  /** The experts of the layer that were in RAM or chosen, ascending. */
  experts: number[] = [];
  spans: Span[] = [];
  #known: readonly unknown[] = [];

  constructor(private readonly state: RunState) {}

  /** Find the spans of a layer; returns whether anything changed since the last time. */
  find(layer: number): boolean {
    const { state } = this;
    const from = [layer, state.epoch, state.moves.end, state.steps.end];
    if (same(from, this.#known)) return false;
    this.#known = from;
    this.layer = layer;
    const { experts, moves, resident, steps } = state;
    const first = layer * experts;
    const open: (Span | null)[] = Array.from({ length: experts }, (_, expert) =>
      resident[first + expert] ? span(expert, steps.end, false) : null,
    );
    this.spans = [];
    const close = (each: Span | null, at: number, arrived: boolean) => {
      if (each) this.spans.push({ ...each, from: at, arrived });
    };
    for (let n = moves.end - 1; n >= moves.begin; n -= 1) {
      const expert = moves.expertOf(n) - first;
      if (expert < 0 || expert >= experts) continue;
      if (moves.arrived(n)) {
        close(open[expert], moves.stepOf(n), true);
        open[expert] = null;
      } else open[expert] = span(expert, moves.stepOf(n), true);
    }
    for (const each of open) close(each, moves.from, false);
    const seen = new Set(this.spans.map(({ expert }) => expert));
    this.experts = [...seen].sort((a, b) => a - b);
    return true;
  }
}

function span(expert: number, to: number, evicted: boolean): Span {
  return { expert, from: 0, to, arrived: false, evicted };
}
