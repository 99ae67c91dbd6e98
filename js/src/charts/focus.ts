// The selection that all panels share: a token, and a layer or one of its experts.
//
// The pointer and the arrow keys hover; a click or Enter pins. What is hovered takes precedence
// over what is pinned. Escape clears both.

export interface Cell {
  layer: number;
  /** null stands for the whole layer. */
  expert: number | null;
}

const same = (a: Cell | null, b: Cell | null): boolean =>
  a === b || (a !== null && b !== null && a.layer === b.layer && a.expert === b.expert);

export class Focus {
  pinnedStep: number | null = null;
  pinnedCell: Cell | null = null;
  private hoveredStep: number | null = null;
  private hoveredCell: Cell | null = null;

  constructor(private readonly changed: () => void) {}

  get step(): number | null {
    return this.hoveredStep ?? this.pinnedStep;
  }

  get cell(): Cell | null {
    return this.hoveredCell ?? this.pinnedCell;
  }

  /** Whether anything is hovered or pinned. */
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

  /** Pin the token that is hovered; unpin it if it is pinned already. */
  pinStep(): void {
    this.pinnedStep = this.step === this.pinnedStep ? null : this.step;
    if (this.pinnedStep === null) this.hoveredStep = null;
    this.changed();
  }

  /** Pin the cell that is hovered; unpin it if it is pinned already. */
  pinCell(): void {
    this.pinnedCell = same(this.cell, this.pinnedCell) ? null : this.cell;
    if (this.pinnedCell === null) this.hoveredCell = null;
    this.changed();
  }

  clear(): void {
    this.pinnedStep = this.hoveredStep = null;
    this.pinnedCell = this.hoveredCell = null;
    this.changed();
  }

  /** Arrow keys move over steps [from, to); Home and End jump, Enter pins, Escape clears. */
  stepKey(event: KeyboardEvent, from: number, to: number): void {
    if (to <= from) return;
    const { step } = this;
    const targets: Record<string, number> = {
      ArrowLeft: step === null ? to - 1 : step - 1,
      ArrowRight: step === null ? from : step + 1,
      Home: from,
      End: to - 1,
    };
    if (this.commonKey(event, () => this.pinStep()) || !(event.key in targets)) return;
    consume(event);
    this.hoverStep(Math.max(from, Math.min(to - 1, targets[event.key])));
  }

  /** Arrow keys move over a map's cells; Enter pins, Escape clears. */
  cellKey(event: KeyboardEvent, layers: number, experts: number): void {
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
    };
    if (this.commonKey(event, () => this.pinCell()) || !(event.key in moves)) return;
    if (!layers || !experts) return;
    consume(event);
    const [down, right] = this.cell === null ? [0, 0] : moves[event.key];
    const { layer, expert } = this.cell ?? { layer: 0, expert: 0 };
    const clamp = (value: number, end: number) => Math.max(0, Math.min(end - 1, value));
    this.hoverCell({
      layer: clamp(layer + down, layers),
      expert: clamp((expert ?? 0) + right, experts),
    });
  }

  private commonKey(event: KeyboardEvent, pin: () => void): boolean {
    if (event.key === "Escape" && this.any) {
      consume(event);
      this.clear();
    } else if (event.key === "Enter" || event.key === " ") {
      consume(event);
      pin();
    } else {
      return false;
    }
    return true;
  }
}

function consume(event: KeyboardEvent): void {
  event.preventDefault();
  event.stopPropagation();
}
