// Decides which parts of a view are drawn in the next animation frame.
//
// Parts are drawn in groups, one a frame, so that no frame takes long: after a message in small groups,
// after a user's action in few.

export type Groups = readonly (readonly number[])[];

export class RedrawScheduler {
  readonly #outdated = new Set<number>();
  #next = 0;
  /** Frames that an action still waits for; messages that arrive meanwhile do not add to them. */
  #frames = 0;

  /** All parts are in both; the first picture is drawn as after an action. */
  constructor(
    private readonly afterMessage: Groups,
    private readonly afterAction: Groups,
  ) {
    this.markUrgent();
  }

  /** Redraw all parts, a group a frame. */
  mark(): void {
    for (const part of this.afterMessage.flat()) this.#outdated.add(part);
  }

  /** Redraw all parts in the next few frames. */
  markUrgent(): void {
    this.mark();
    this.#frames = this.afterAction.length;
  }

  /** The parts to draw in this frame: the outdated ones of the next group that has any. */
  take(): number[] {
    const groups = this.urgent ? this.afterAction : this.afterMessage;
    if (this.#frames) this.#frames -= 1;
    for (let i = 0; i < groups.length; i += 1) {
      const now = groups[this.#next % groups.length].filter((part) => this.#outdated.has(part));
      this.#next = (this.#next + 1) % groups.length;
      for (const part of now) this.#outdated.delete(part);
      if (now.length) return now;
    }
    return [];
  }

  get pending(): boolean {
    return this.#outdated.size > 0;
  }

  /** Whether an action waits for the rest of its parts. */
  get urgent(): boolean {
    return this.#frames > 0;
  }
}
