// Which parts of a view are out of date, and whose turn it is to be drawn.
//
// What arrives is drawn part by part over the next animation frames, so that none of them takes
// long. What somebody does with the pointer or the keys shows in all parts at once.

export class Turns {
  private readonly due: boolean[];
  private next = 0;
  private together = true;

  constructor(parts: number) {
    this.due = new Array<boolean>(parts).fill(true);
  }

  /** All parts are out of date; each is drawn when its turn comes. */
  mark(): void {
    this.due.fill(true);
  }

  /** All parts are out of date, and are drawn with the next frame. */
  markTogether(): void {
    this.mark();
    this.together = true;
  }

  /** The parts to draw in this frame: the next one that is due, or all of them. */
  take(): number[] {
    const n = this.due.length;
    const order = Array.from({ length: n }, (_, i) => (this.next + i) % n);
    const due = order.filter((part) => this.due[part]);
    const now = this.together ? due.sort((a, b) => a - b) : due.slice(0, 1);
    this.together = false;
    for (const part of now) this.due[part] = false;
    if (now.length) this.next = (now[now.length - 1] + 1) % n;
    return now;
  }

  get pending(): boolean {
    return this.due.some(Boolean);
  }
}
