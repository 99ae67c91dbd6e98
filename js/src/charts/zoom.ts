// The part of the run that all charts show, which a user chose by brushing over an axis.

import type { StepRange } from "./step-range";

/** The fewest steps that a zoomed axis shows. */
const FEWEST = 8;

export class Zoom {
  #from = 0;
  #to = 0;

  constructor(private readonly changed: () => void) {}

  /** Whether less than the whole run is shown. */
  get active(): boolean {
    return this.#to > this.#from;
  }

  /** Show steps [from, to), and more of them around if these are few. */
  set(from: number, to: number): void {
    const missing = Math.max(0, FEWEST - (to - from));
    this.#from = from - Math.floor(missing / 2);
    this.#to = to + Math.ceil(missing / 2);
    this.changed();
  }

  /** Show all steps again. */
  reset(): void {
    if (!this.active) return;
    this.#from = this.#to = 0;
    this.changed();
  }

  /** Show fewer (`factor` below 1) or more steps around `centre`, out of the range `shown`. */
  scale(factor: number, shown: StepRange, centre: number): void {
    const steps = Math.max(FEWEST, Math.round((shown.to - shown.from) * factor));
    const share = (centre - shown.from) / (shown.to - shown.from);
    const from = Math.round(centre - share * steps);
    this.set(from, from + steps);
  }

  /** The shown part of the range `all`. It moves with the playhead `at`, so that this stays in it. */
  apply(all: StepRange, at: number | null): StepRange {
    if (!this.active) return all;
    const steps = this.#to - this.#from;
    if (steps >= all.to - all.from) {
      this.#from = this.#to = 0;
      return all;
    }
    if (at !== null && at < this.#from) this.#from = at;
    else if (at !== null && at >= this.#to) this.#from = at - steps + 1;
    this.#from = Math.max(all.from, Math.min(all.to - steps, this.#from));
    this.#to = this.#from + steps;
    return { ...all, from: this.#from, to: this.#to, zoomed: true };
  }
}
