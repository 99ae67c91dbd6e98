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
  #scale: Scale | null = null;
  /** What is painted: the colouring, its numbers, the text's elements, and whether the run is over. */
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
    const { log } = this;
    const { length } = log.steps;
    const numbers = used.column && this.source.column(used.column);
    const now = [used.key, numbers, log.generation, over];
    const changed = !same(now, this.#painted);
    if (changed || length >= GROWTH * Math.max(1, this.#fitted)) {
      this.#painted = now;
      this.#fitted = length;
      this.#done = 0;
      this.#scale = scaleOf(Float64Array.from(log.steps, used.value), used.from);
    }
    const scale = this.#scale;
    for (const step of log.steps.slice(this.#done)) {
      log.colour(step, scale ? levelOf(used.value(step), scale) : 0);
    }
    this.#done = length;
    return scale;
  }
}
