// Maps of cells: which pixels are written, and which cell a pixel shows.

import { expect, test, vi } from "vitest";
import { Bitmap, sharing } from "../../src/charts/bitmap";
import { pack } from "../../src/charts/colours";
import { Marks } from "../../src/charts/marks";
import { readTheme } from "../../src/widget/theme";

const COLOURS = Uint32Array.from({ length: 256 }, (_, level) => 0xff000000 + level);

function cells(layers: number, experts: number) {
  const levels = Uint8Array.from({ length: layers * experts }, (_, i) => (i * 7919) % 256);
  return { layers, experts, levels, colours: COLOURS };
}

test("of a map only the cells that changed are written", () => {
  const map = cells(60, 512);
  const bitmap = new Bitmap();
  bitmap.paint(map, 2000, 300);
  expect([bitmap.columns, bitmap.rows, bitmap.touched]).toEqual([512, 60, 60 * 512]);
  bitmap.paint(map, 2000, 300);
  expect(bitmap.touched).toBe(0);
  for (const at of [3, 700, 30_000]) map.levels[at] ^= 1;
  const put = vi.spyOn(CanvasRenderingContext2D.prototype, "putImageData");
  bitmap.paint(map, 2000, 300);
  expect(bitmap.touched).toBe(3);
  expect(put.mock.calls[0].slice(1)).toEqual([0, 0, 0, 0, 512, 59]); // rows 0 to 58
  bitmap.paint({ ...map, colours: COLOURS.slice() }, 2000, 300);
  expect(bitmap.touched).toBe(60 * 512); // another theme
});

test.each([
  [346, 1],
  [346, 2],
  [100, 1],
  [1946, 1],
  [1946, 2],
])("at %i pixels of scale %i a pixel shows the highest of its cells, and names it", (px, scale) => {
  const map = cells(60, 512);
  const bitmap = new Bitmap();
  bitmap.paint(map, px * scale, 40 * scale);
  expect([bitmap.columns, bitmap.rows]).toEqual([
    Math.min(512, px * scale),
    Math.min(60, 40 * scale),
  ]);
  const context = bitmap.node.getContext("2d")!;
  const { data } = context.getImageData(0, 0, bitmap.columns, bitmap.rows);
  const seen = new Set<number>();
  let wrong = 0;
  for (let row = 0; row < bitmap.rows; row += 1) {
    for (let column = 0; column < bitmap.columns; column += 1) {
      const [top, bottom] = sharing(row, 60, bitmap.rows);
      const [left, right] = sharing(column, 512, bitmap.columns);
      let most = 0;
      for (let y = top; y < bottom; y += 1) {
        for (let x = left; x < right; x += 1) {
          seen.add(y * 512 + x);
          most = Math.max(most, map.levels[y * 512 + x]);
        }
      }
      const { layer, expert } = bitmap.cellAt(map, column, row);
      const inside = layer >= top && layer < bottom && expert >= left && expert < right;
      const shown = data[4 * (row * bitmap.columns + column)];
      if (shown !== most || map.levels[layer * 512 + expert] !== most || !inside) wrong += 1;
    }
  }
  expect(wrong).toBe(0);
  expect(seen.size).toBe(60 * 512); // no cell is left out
});

test("a hit has a ring and an arrival a dot, also where one map shows both", () => {
  document.body.style.backgroundColor = "#ffffff";
  const theme = { ...readTheme(document.body), surface: "#ffffff", ink: "#000000" };
  const marks = new Marks({ x: 0, y: 0, width: 80, height: 40 }, cells(2, 4), 1, theme);
  const image = new ImageData(80, 40);
  marks.moved(image, [{ index: 0, arrived: true, age: 0 }]);
  marks.chosen(image, [
    { index: 1, hit: true },
    { index: 2, hit: false },
  ]);
  const inked = (x: number, y: number) => image.data[4 * (y * 80 + x) + 3] > 0;
  expect([10, 30, 50].map((x) => inked(x, 10))).toEqual([true, false, false]);
  expect([5, 25, 43].map((x) => inked(x, 10))).toEqual([false, true, true]);
});

test("a colour is packed as ImageData stores it", () => {
  expect(new Uint8Array(Uint32Array.of(pack([1, 2, 3])).buffer)).toEqual(
    Uint8Array.of(1, 2, 3, 255),
  );
});
