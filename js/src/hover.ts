// The token under the pointer, shared by all charts that have a token axis.

export class Hover {
  step: number | null = null;

  constructor(private readonly changed: () => void) {}

  set(step: number | null): void {
    if (step === this.step) return;
    this.step = step;
    this.changed();
  }

  /** Arrow keys move over [from, to); Home and End jump, Escape leaves. */
  key(event: KeyboardEvent, from: number, to: number): void {
    if (to <= from) return;
    const at = this.step ?? to;
    const targets: Record<string, number | null> = {
      ArrowLeft: at - 1,
      ArrowRight: this.step === null ? from : at + 1,
      Home: from,
      End: to - 1,
      Escape: null,
    };
    if (!(event.key in targets)) return;
    event.preventDefault();
    event.stopPropagation();
    const target = targets[event.key];
    this.set(target === null ? null : Math.max(from, Math.min(to - 1, target)));
  }
}
