// Decides which parts of a view are drawn in the next animation frame.
//
// After a message each frame draws one part, so that no frame takes long. After a user's action all
// parts are drawn in the same frame.

export class RedrawScheduler {
  readonly #outdated: boolean[];
  #next = 0;
  #together = true;

  constructor(parts: number) {
    this.#outdated = new Array<boolean>(parts).fill(true);
  }

  /** Redraw all parts, one a frame. */
  mark(): void {
    this.#outdated.fill(true);
  }

  /** Redraw all parts in the next frame. */
  markTogether(): void {
    this.mark();
    this.#together = true;
  }

  /** The parts to draw in this frame: the next outdated one, or all of them. */
  take(): number[] {
    const n = this.#outdated.length;
    const order = Array.from({ length: n }, (_, i) => (this.#next + i) % n);
    const outdated = order.filter((part) => this.#outdated[part]);
    const now = this.#together ? outdated.sort((a, b) => a - b) : outdated.slice(0, 1);
    this.#together = false;
    for (const part of now) this.#outdated[part] = false;
    if (now.length) this.#next = (now[now.length - 1] + 1) % n;
    return now;
  }

  get pending(): boolean {
    return this.#outdated.some(Boolean);
  }
}
