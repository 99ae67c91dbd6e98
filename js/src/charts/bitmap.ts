// Draws a map's cells as the pixels of a small canvas, which the page stretches over the plot.
//
// It writes only the pixels that changed. Where cells are narrower than the screen's pixels,
// neighbours share a pixel that shows their highest level, so that no rare cell is lost. It knows
// nothing of what the levels mean, nor of the pointer.

import { el } from "../widget/dom";

/** One level (0 to 255) per expert at layer * experts + expert, and the colour of each level. */
export interface Cells {
  layers: number;
  experts: number;
  levels: Uint8Array;
  colours: Uint32Array;
}

/** The cells [from, to) along one axis that share pixel `n` of `pixels`. */
export function sharing(n: number, cells: number, pixels: number): [number, number] {
  return [Math.ceil((n * cells) / pixels), Math.ceil(((n + 1) * cells) / pixels)];
}

export class Bitmap {
  readonly node = el("canvas", "oj-bitmap", { "aria-hidden": "true" });
  columns = 0;
  rows = 0;
  /** How many pixels the last `paint` wrote; tests count them. */
  touched = 0;
  readonly #context = this.node.getContext("2d")!;
  #image: ImageData | null = null;
  #pixels = new Uint32Array(0);
  /** The level that each pixel shows. */
  #shown = new Uint8Array(0);
  #colours: Uint32Array | null = null;
  /** The column that shows each expert, where experts share columns. */
  #columnOf = new Uint16Array(0);

  /** Show `cells` in at most as many pixels as the plot has on the screen. */
  paint(cells: Cells, maxColumns: number, maxRows: number): void {
    const columns = Math.max(1, Math.min(cells.experts, Math.floor(maxColumns)));
    const rows = Math.max(1, Math.min(cells.layers, Math.floor(maxRows)));
    const all = this.#resize(columns, rows) || this.#colours !== cells.colours;
    this.#colours = cells.colours;
    if (all && this.#columnOf.length !== cells.experts) {
      this.#columnOf = new Uint16Array(cells.experts);
    }
    if (all)
      for (let i = 0; i < cells.experts; i += 1) this.#columnOf[i] = (i * columns) / cells.experts;
    const exact = columns === cells.experts && rows === cells.layers;
    const [first, last] = this.#write(exact ? cells.levels : this.#highest(cells), all);
    if (!this.touched) return;
    this.#context.putImageData(this.#image!, 0, 0, 0, first, columns, last - first + 1);
  }

  /** The cell that a pixel shows: the first with the highest level among those that share it. */
  cellAt(cells: Cells, column: number, row: number): { layer: number; expert: number } {
    const [top, bottom] = sharing(row, cells.layers, this.rows);
    const [left, right] = sharing(column, cells.experts, this.columns);
    let [layer, expert, most] = [top, left, -1];
    for (let y = top; y < bottom; y += 1) {
      for (let x = left; x < right; x += 1) {
        const level = cells.levels[y * cells.experts + x];
        if (level > most) [layer, expert, most] = [y, x, level];
      }
    }
    return { layer, expert };
  }

  /** Take a size in pixels; returns whether it changed. */
  #resize(columns: number, rows: number): boolean {
    if (this.columns === columns && this.rows === rows) return false;
    [this.columns, this.rows] = [columns, rows];
    [this.node.width, this.node.height] = [columns, rows];
    this.#image = this.#context.createImageData(columns, rows);
    this.#pixels = new Uint32Array(this.#image.data.buffer);
    this.#shown = new Uint8Array(columns * rows);
    return true;
  }

  /** Write the pixels whose level changed; returns the first and the last row of them. */
  #write(levels: Uint8Array, all: boolean): [number, number] {
    const { columns } = this,
      pixels = this.#pixels,
      shown = this.#shown;
    const colours = this.#colours!;
    let [touched, first, last] = [0, -1, -1];
    for (let i = 0; i < pixels.length; i += 1) {
      const level = levels[i];
      if (level === shown[i] && !all) continue;
      shown[i] = level;
      pixels[i] = colours[level];
      touched += 1;
      if (first < 0) first = i;
      last = i;
    }
    this.touched = touched;
    return [Math.floor(first / columns), Math.floor(last / columns)];
  }

  /** The highest level of the cells that share each pixel. */
  #highest({ layers, experts, levels }: Cells): Uint8Array {
    const { columns, rows } = this,
      columnOf = this.#columnOf;
    const out = new Uint8Array(columns * rows);
    for (let layer = 0; layer < layers; layer += 1) {
      const row = Math.floor((layer * rows) / layers) * columns;
      for (let expert = 0; expert < experts; expert += 1) {
        const at = row + columnOf[expert];
        const level = levels[layer * experts + expert];
        if (level > out[at]) out[at] = level;
      }
    }
    return out;
  }
}
