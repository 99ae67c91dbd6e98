// Decides which parts of a view are drawn in the next animation frame.
//
// After a message each frame draws one part, so that no frame takes long. After a user's action a
// frame draws half of the parts, and the next one the others: together they would take too long.

export class RedrawScheduler {
  readonly #outdated: boolean[];
  #next = 0;
  /** Halves that an action still waits for; messages that arrive meanwhile do not add to them. */
  #halves = 2;

  constructor(parts: number) {
    this.#outdated = new Array<boolean>(parts).fill(true);
  }

  /** Redraw all parts, one a frame. */
  mark(): void {
    this.#outdated.fill(true);
  }

  /** Redraw all parts in the next two frames. */
  markUrgent(): void {
    this.mark();
    this.#halves = 2;
  }

  /** The parts to draw in this frame: the next outdated one, or the outdated ones of its half. */
  take(): number[] {
    const n = this.#outdated.length;
    const half = (part: number) => Math.floor((2 * part) / n);
    const order = Array.from({ length: n }, (_, i) => (this.#next + i) % n);
    const outdated = order.filter((part) => this.#outdated[part]);
    const now = this.urgent
      ? outdated.filter((part) => half(part) === half(outdated[0]))
      : outdated.slice(0, 1);
    for (const part of now) this.#outdated[part] = false;
    if (now.length) this.#next = (Math.max(...now) + 1) % n;
    if (this.#halves) this.#halves -= 1;
    return now;
  }

  get pending(): boolean {
    return this.#outdated.some(Boolean);
  }

  /** Whether an action waits for its other half. */
  get urgent(): boolean {
    return this.#halves > 0;
  }
}
