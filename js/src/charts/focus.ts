// The selection that all panels share: the playhead's token, and a layer or one of its experts.
//
// The pointer hovers, which is only a preview; a click or Enter moves the playhead to a token, or
// pins an expert. What is hovered takes precedence while it is hovered.

export interface Cell {
  layer: number;
  /** null stands for the whole layer. */
  expert: number | null;
}

/** The token that a run is shown at: the run view's playback, or a plot's own. */
export interface Playhead {
  /** The step shown; null while the end is followed. */
  readonly at: number | null;
  moveTo(step: number): void;
  follow(): void;
}

const same = (a: Cell | null, b: Cell | null): boolean =>
  a === b || (a !== null && b !== null && a.layer === b.layer && a.expert === b.expert);

/** A playhead of a plot without a run. */
export class StillPlayhead implements Playhead {
  at: number | null = null;

  moveTo(step: number): void {
    this.at = step;
  }

  follow(): void {
    this.at = null;
  }
}

export class Focus {
  pinnedCell: Cell | null = null;
  /** Whether an expert was pinned after the playhead was last moved. */
  expertLast = false;
  private hoveredStep: number | null = null;
  private hoveredCell: Cell | null = null;

  constructor(
    private readonly changed: () => void,
    private readonly playhead: Playhead = new StillPlayhead(),
  ) {}

  /** The playhead's step; null while the end is followed. */
  get at(): number | null {
    return this.playhead.at;
  }

  /** The step to show: the hovered one, else the playhead's. */
  get step(): number | null {
    return this.hoveredStep ?? this.playhead.at;
  }

  get cell(): Cell | null {
    return this.hoveredCell ?? this.pinnedCell;
  }

  /** Whether anything is selected. */
  get any(): boolean {
    return this.step !== null || this.cell !== null;
  }

  hoverStep(step: number | null): void {
    if (step === this.hoveredStep) return;
    this.hoveredStep = step;
    this.changed();
  }

  hoverCell(cell: Cell | null): void {
    if (same(cell, this.hoveredCell)) return;
    this.hoveredCell = cell;
    this.changed();
  }

  /** Move the playhead to a step; the preview ends, until the pointer moves again. */
  moveTo(step: number): void {
    this.playhead.moveTo(step);
    this.hoveredStep = null;
    this.expertLast = false;
    this.changed();
  }

  /** Pin the cell that is hovered; unpin it if it is pinned already. */
  pinCell(): void {
    this.pinnedCell = same(this.cell, this.pinnedCell) ? null : this.cell;
    if (this.pinnedCell === null) this.hoveredCell = null;
    this.expertLast = this.pinnedCell !== null;
    this.changed();
  }

  /** Unpin the expert, and end all previews. */
  clearCell(): void {
    this.pinnedCell = this.hoveredCell = null;
    this.expertLast = false;
    this.changed();
  }

  /** Unpin the expert and return to the end of the run. */
  clear(): void {
    this.hoveredStep = null;
    this.playhead.follow();
    this.clearCell();
  }

  /** Enter or the space bar moves the playhead to the step shown, or else to `last`. */
  stepKey(event: KeyboardEvent, last: number): void {
    if (event.key !== "Enter" && event.key !== " ") return;
    consume(event);
    this.moveTo(this.step ?? last);
  }

  /** Arrow keys move over a map's cells; Enter pins. */
  cellKey(event: KeyboardEvent, layers: number, experts: number): void {
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
    };
    if (event.key === "Enter" || event.key === " ") {
      consume(event);
      this.pinCell();
    }
    if (!(event.key in moves) || !layers || !experts) return;
    consume(event);
    const [down, right] = this.cell === null ? [0, 0] : moves[event.key];
    const { layer, expert } = this.cell ?? { layer: 0, expert: 0 };
    const clamp = (value: number, end: number) => Math.max(0, Math.min(end - 1, value));
    this.hoverCell({
      layer: clamp(layer + down, layers),
      expert: clamp((expert ?? 0) + right, experts),
    });
  }
}

/** The event has had its effect: neither the page nor the notebook acts on it. */
export function consume(event: Event): void {
  event.preventDefault();
  event.stopPropagation();
}
