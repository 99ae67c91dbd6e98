// Colours the tokens of the text by one colouring, on a scale that fits what there is.
//
// A token that arrives is painted on the scale in use. The scale is fitted again when a quarter more
// tokens have arrived, and at the end of the run.

import { same } from "../../widget/same";
import type { ColumnSource } from "../columns";
import { type Colouring, levelOf, type Scale, scaleOf } from "./text-colour";
import type { TextLog } from "./text-log";

/** The scale is fitted again when there are this many times the tokens. */
const GROWTH = 1.25;

export class TextPaint {
  /** The text beside it, which has the same scale while it has the same colouring. */
  beside: TextPaint | null = null;
  #used: Colouring | null = null;
  #scale: Scale | null = null;
  /** What the scale was fitted to: the colouring, its numbers, the elements, whether the run is over. */
  #fittedTo: readonly unknown[] = [];
  #painted: readonly unknown[] = [];
  /** The tokens when the scale was fitted, and those painted since. */
  #fitted = 0;
  #done = 0;

  constructor(
    private readonly log: TextLog,
    private readonly source: ColumnSource,
  ) {}

  /** Paint the tokens that need it; returns the scale, or null if no number is known. */
  paint(used: Colouring, over: boolean): Scale | null {
    const { log, beside } = this;
    const { length } = log.steps;
    const numbers = used.column && this.source.column(used.column);
    const now = [used.key, numbers, log.generation, over];
    this.#used = used;
    if (!same(now, this.#fittedTo) || length >= GROWTH * Math.max(1, this.#fitted)) {
      this.#fittedTo = now;
      this.#fitted = length;
      this.#scale = scaleOf(Float64Array.from(log.steps, used.value), used.from);
    }
    const alike = beside && beside.#used?.key === used.key;
    const scale = widest(this.#scale, alike ? beside.#scale : null);
    const painted = [...this.#fittedTo, scale?.low, scale?.high];
    if (!same(painted, this.#painted)) this.#done = 0;
    this.#painted = painted;
    for (const step of log.steps.slice(this.#done)) {
      log.colour(step, scale ? levelOf(used.value(step), scale) : 0);
    }
    this.#done = length;
    return scale;
  }
}

/** The scale on which both fit. */
function widest(a: Scale | null, b: Scale | null): Scale | null {
  if (!a || !b) return a;
  const [high, most] = [Math.max(a.high, b.high), Math.max(a.most, b.most)];
  return { low: Math.min(a.low, b.low), high, most };
}
