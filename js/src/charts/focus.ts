// The selection that all panels share: the playhead's token, tokens chosen in the text, and layers
// or experts.
//
// The pointer hovers, which is only a preview; a click or Enter moves the playhead to a token, or
// pins an expert. What is hovered takes precedence while it is hovered.

import { modified } from "../widget/dom";
import { Zoom } from "./zoom";

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
  /** The pinned layers and experts, in the order in which they were pinned. */
  cells: readonly Cell[] = [];
  /** The tokens chosen in the text, by step, ascending. */
  chosen: readonly number[] = [];
  /** Whether an expert was pinned after the playhead was last moved. */
  expertLast = false;
  /** The steps that all charts show. */
  readonly zoom: Zoom;
  #hoveredStep: number | null = null;
  #hoveredCell: Cell | null = null;

  constructor(
    private readonly changed: () => void,
    private readonly playhead: Playhead = new StillPlayhead(),
  ) {
    this.zoom = new Zoom(changed);
  }

  /** The playhead's step; null while the end is followed. */
  get at(): number | null {
    return this.playhead.at;
  }

  /** The step to show: the hovered one, else the playhead's. */
  get step(): number | null {
    return this.#hoveredStep ?? this.playhead.at;
  }

  get cell(): Cell | null {
    return this.#hoveredCell ?? this.pinnedCell;
  }

  /** The layer or expert that was pinned last. */
  get pinnedCell(): Cell | null {
    return this.cells.at(-1) ?? null;
  }

  /** The experts to show: the hovered one, else those pinned. */
  get experts(): readonly Cell[] {
    const cells = this.#hoveredCell ? [this.#hoveredCell] : this.cells;
    return cells.filter(({ expert }) => expert !== null);
  }

  /** Whether a token, or a layer or an expert, is hovered. */
  get stepHovered(): boolean {
    return this.#hoveredStep !== null;
  }

  get cellHovered(): boolean {
    return this.#hoveredCell !== null;
  }

  /** Whether anything is selected. */
  get any(): boolean {
    return this.step !== null || this.cell !== null || this.chosen.length > 0;
  }

  hoverStep(step: number | null): void {
    if (step === this.#hoveredStep) return;
    this.#hoveredStep = step;
    this.changed();
  }

  hoverCell(cell: Cell | null): void {
    if (same(cell, this.#hoveredCell)) return;
    this.#hoveredCell = cell;
    this.changed();
  }

  /** Move the playhead to a step; the preview ends, until the pointer moves again. */
  moveTo(step: number): void {
    this.playhead.moveTo(step);
    this.#hoveredStep = null;
    this.expertLast = false;
    this.changed();
  }

  /** Choose tokens; none ends the choice. */
  choose(steps: readonly number[]): void {
    if (!steps.length && !this.chosen.length) return;
    this.chosen = [...steps].sort((a, b) => a - b);
    this.changed();
  }

  /**
   * Pin the cell that is hovered, beside those pinned if `add`, else in their place; unpin it if it
   * is pinned already.
   */
  pinCell(add = false): void {
    const { cell, cells } = this;
    if (!cell) return;
    const others = cells.filter((each) => !same(each, cell));
    const unpinned = others.length < cells.length && (add || cells.length === 1);
    if (unpinned) this.cells = others;
    else this.cells = add ? [...cells, cell] : [cell];
    if (unpinned) this.#hoveredCell = null;
    this.expertLast = this.cells.length > 0;
    this.changed();
  }

  /** Unpin the expert, and end all previews. */
  clearCell(): void {
    this.cells = [];
    this.#hoveredCell = null;
    this.expertLast = false;
    this.changed();
  }

  /** End the choice of tokens, if there is one; else unpin and return to the end of the run. */
  clear(): void {
    if (this.chosen.length) {
      this.choose([]);
      return;
    }
    this.#hoveredStep = null;
    this.playhead.follow();
    this.clearCell();
  }

  /** Enter or the space bar moves the playhead to the step shown, or else to `last`. */
  stepKey(event: KeyboardEvent, last: number): void {
    if ((event.key !== "Enter" && event.key !== " ") || modified(event)) return;
    consume(event);
    this.moveTo(this.step ?? last);
  }

  /** Arrow keys move over a map's cells; Enter pins. */
  cellKey(event: KeyboardEvent, layers: number, experts: number): void {
    if (modified(event)) return;
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
    };
    if (event.key === "Enter" || event.key === " ") {
      consume(event);
      this.pinCell(event.shiftKey);
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
