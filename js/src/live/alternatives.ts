// What the model found likely in the place of each token of a finished run, as Python tells it on request.

/** A token that may stand in a place: its id, its text, its log-probability in nats. */
export type Alternative = readonly [token: number, text: string, logprob: number];

/** What Python's alternatives.py says of a step. */
export interface Likely {
  /** The token that was chosen. */
  chosen: Alternative;
  /** 1 is the likeliest; 0 if it is not known. */
  rank: number;
  /** The likeliest tokens, the likeliest first. */
  others: readonly Alternative[];
}

/** Python's answer: of one step after another, from the one in `about` on. */
export interface LikelyMessage {
  about: { alternatives: number };
  likely: readonly (Likely | null)[];
}

export class Alternatives {
  readonly #known = new Map<number, Likely | null>();
  readonly #requested = new Set<number>();

  constructor(private readonly request: (step: number) => void) {}

  /** What was likely in the place of a step's token; null until it arrives, or if it is not known. */
  of(step: number): Likely | null {
    const found = this.#known.get(step);
    if (found === undefined && !this.#requested.has(step)) {
      this.#requested.add(step);
      this.request(step);
    }
    return found ?? null;
  }

  take({ about, likely }: LikelyMessage): void {
    for (const [n, each] of likely.entries()) this.#known.set(about.alternatives + n, each);
  }
}
