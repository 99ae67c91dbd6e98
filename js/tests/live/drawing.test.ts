// How much is drawn, and when: counted, never timed.

import { afterEach, expect, test, vi } from "vitest";
import { Bars } from "../../src/charts/bars";
import { Bitmap, sharing } from "../../src/charts/bitmap";
import { GLOW_MS, KEPT_STEPS } from "../../src/live/limits";
import "../../src/live.css";
import { el } from "../../src/widget/dom";
import { Focus } from "../../src/charts/focus";
import { decode } from "../../src/live/frames";
import { Glow, STAGES } from "../../src/live/recency-fade";
import { Lines } from "../../src/charts/lines";
import widget from "../../src/live";
import { ceiling } from "../../src/charts/plot";
import { RoutingPanel } from "../../src/live/panels/routing";
import { roomFor, type Span } from "../../src/charts/step-range";
import { RunState } from "../../src/live/state";
import { readTheme } from "../../src/widget/theme";
import { Turns } from "../../src/live/redraw-scheduler";
import { encode, MockModel, Synthetic, settled } from "../synthetic";

const WIDE = { layers: 60, experts: 512, k: 10, slots: 900, prompt: 5, expertBytes: 1_000_000 };
const SHAPE = { layers: 4, experts: 16, k: 2, slots: 20, prompt: 5, expertBytes: 1_000_000 };
const COLOURS = Uint32Array.from({ length: 256 }, (_, level) => 0xff000000 + level);

const controller = new AbortController();
const focus = new Focus(() => {});
let host: HTMLElement;

/** A box on the page for a plot. */
function box(width: number, height: number): HTMLElement {
  host = document.body.appendChild(el("div", "oj-root"));
  const plot = el("div", "oj-plot");
  plot.style.cssText = `width: ${width}px; height: ${height}px`;
  host.append(plot);
  return plot;
}

afterEach(() => {
  host?.remove();
  vi.restoreAllMocks();
});

function cells(layers: number, experts: number) {
  const levels = Uint8Array.from({ length: layers * experts }, (_, i) => (i * 7919) % 256);
  return { layers, experts, levels, colours: COLOURS };
}

test("parts that are out of date take turns, one a frame, and nobody starves", () => {
  const turns = new Turns(3);
  expect(turns.take()).toEqual([0, 1, 2]); // the first picture is whole
  expect(turns.pending).toBe(false);
  turns.mark();
  expect([turns.take(), turns.take()]).toEqual([[0], [1]]);
  turns.mark(); // more has come before the last had its turn
  expect([turns.take(), turns.take(), turns.take(), turns.take()]).toEqual([[2], [0], [1], []]);
  turns.mark();
  turns.markTogether();
  expect(turns.take()).toEqual([0, 1, 2]);
});

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

const span = (n: number): Span => ({
  ...{ from: 0, to: roomFor(n), origin: 0, prompt: false, until: null },
});

test("a new token draws its own bar and no other, until the axis or the scale is used up", () => {
  const plot = box(600, 200);
  const bars = new Bars("bars", focus, controller.signal);
  plot.append(bars.plot.canvas.node);
  const theme = readTheme(host);
  const values: number[] = [];
  const painted: number[] = [];
  for (let i = 0; i < 34; i += 1) {
    values.push(i === 28 ? 30 : 5);
    const parts = [{ values: Float32Array.from(values), colour: "red" }];
    bars.draw({ shown: span(values.length), parts, title: "ms" }, theme);
    painted.push(bars.plot.painted);
  }
  const whole = painted.flatMap((n, i) => (n > 1 ? [i] : []));
  expect(whole).toEqual([24, 28, 32]); // room for 24 is full; a higher bar; room for 32 is full
  bars.draw({ shown: span(34), parts: [{ values, colour: "red" }], title: "ms" }, theme);
  expect(bars.plot.painted).toBe(0);
});

test("what is drawn token by token is the picture that is drawn at once", () => {
  const plot = box(300, 200);
  const [grown, whole] = [1, 2].map(() => new Bars("bars", focus, controller.signal));
  const theme = readTheme(host);
  const values = Float32Array.from({ length: 150 }, (_, i) => 5 + ((i * 31) % 17));
  values[0] = 22; // the scale is that of the end from the start
  plot.append(grown.plot.canvas.node, whole.plot.canvas.node);
  const draw = (bars: Bars, n: number) => {
    const parts = [{ values: values.subarray(0, n), colour: "rgb(0, 0, 200)" }];
    bars.draw({ shown: { ...span(150), to: 160 }, parts, title: "ms" }, theme);
  };
  for (let n = 1; n <= 150; n += 1) draw(grown, n);
  draw(whole, 150);
  const pixels = (bars: Bars) => {
    const { node, context } = bars.plot.canvas;
    return context.getImageData(0, 0, node.width, node.height).data;
  };
  const [a, b] = [pixels(grown), pixels(whole)];
  expect(a.length).toBeGreaterThan(1000);
  let apart = 0;
  for (let i = 0; i < a.length; i += 1) if (Math.abs(a[i] - b[i]) > 40) apart += 1;
  expect(apart).toBeLessThan(a.length / 200); // the edges of shared bars may blend twice
});

test("a line goes on from where it was, and leaves gaps as they are", () => {
  const plot = box(600, 200);
  const lines = new Lines("lines", focus, controller.signal);
  plot.append(lines.plot.canvas.node);
  const theme = readTheme(host);
  const values = [1, 2, Number.NaN, 2, 1];
  const lineTo = vi.spyOn(CanvasRenderingContext2D.prototype, "lineTo");
  const drawn = values.map((_, n) => {
    lineTo.mockClear();
    const line = { values: values.slice(0, n + 1), colour: "red", width: 1, dash: [2, 2] };
    lines.draw({ shown: span(5), lines: [{ ...line, by: "mean" }], title: "ms" }, theme);
    return lineTo.mock.calls.length;
  });
  // The second raises the scale and is drawn with the first.
  expect(drawn).toEqual([0, 1, 0, 0, 1]);
});

test("a scale's end is round, and grows seldom", () => {
  expect([0.03, 0.9, 1, 1.1, 7, 9.5, 23, 101].map(ceiling)).toEqual([
    0.03, 1, 1, 1.2, 8, 10, 25, 120,
  ]);
  expect([ceiling(0), ceiling(Number.NaN)]).toEqual([0, 0]);
  expect([1, 24, 25, 33, 49, 65].map(roomFor)).toEqual([24, 24, 32, 48, 64, 96]);
});

test("experts glow when they are used, and go out as time passes", () => {
  const state = new RunState();
  const run = new Synthetic(SHAPE);
  const tell = (n: number, decoded: boolean) => {
    const frame = decode(encode(run.next(n, decoded)));
    state.apply(frame);
    return frame;
  };
  const glow = new Glow(state);
  tell(5, false);
  glow.show(state.steps.end - 1, 0);
  expect(glow.fading).toBe(false); // what was there before does not begin to glow
  const { expertsOf } = tell(1, true);
  glow.show(state.steps.end - 1, 1000);
  glow.fade(1000);
  const used = new Set([...expertsOf].map((e, i) => Math.floor(i / SHAPE.k) * SHAPE.experts + e));
  const lit = () => [...glow.stages.keys()].filter((i) => glow.stages[i] > 0);
  expect(new Set(lit())).toEqual(used);
  expect(Math.max(...glow.stages)).toBe(STAGES);
  expect(glow.fade(1000 + GLOW_MS / 2)).toBe(true);
  expect(new Set(lit().map((i) => glow.stages[i]))).toEqual(new Set([STAGES / 2]));
  glow.fade(1000 + GLOW_MS);
  expect([lit(), glow.fading]).toEqual([[], false]);
});

/** A view of a run in a box on the page. */
function view(): { model: MockModel; run: Synthetic; push: (n?: number) => void } {
  host = document.body.appendChild(el("div", ""));
  const model = new MockModel({ info: { model: "tiny" } });
  const instance = widget();
  instance.initialize({ model });
  instance.render({ model, el: host });
  const run = new Synthetic(SHAPE);
  model.set("status", "running");
  model.frame(encode(run.next(5, false)));
  const push = (n = 1) => model.frame(encode(run.next(n, true)));
  return { model, run, push };
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

test("a burst of frames is drawn once or twice, not once each", async () => {
  const { push } = view();
  await settled(host);
  const drawn = vi.spyOn(RoutingPanel.prototype, "draw");
  for (let i = 0; i < 200; i += 1) push();
  await settled(host);
  expect(drawn.mock.calls.length).toBeGreaterThan(0);
  expect(drawn.mock.calls.length).toBeLessThan(4);
});

test("a token adds its own elements to the page, and few", async () => {
  const { push } = view();
  for (let i = 0; i < 50; i += 1) push();
  await settled(host);
  const before = host.querySelectorAll("*").length;
  for (let i = 0; i < 100; i += 1) push();
  await settled(host);
  expect(host.querySelectorAll("*").length - before).toBe(100);
});

test("after ten thousand tokens the page holds no more than the newest", async () => {
  const { push } = view();
  await settled(host);
  for (let i = 0; i < 10_000; i += 1) push();
  await settled(host);
  const tokens = host.querySelectorAll(".oj-token").length;
  expect(tokens).toBeGreaterThan(KEPT_STEPS / 2);
  expect(tokens).toBeLessThanOrEqual(2 * KEPT_STEPS);
  expect(host.querySelectorAll("*").length - tokens).toBeLessThan(400);
  expect(host.querySelector(".oj-text .oj-aside")?.textContent).toMatch(/^10.001.tokens$/);
});

test("when nothing comes any more, nothing is drawn any more", async () => {
  const { push } = view();
  push();
  await settled(host);
  await pause(GLOW_MS + 200);
  const frames = vi.spyOn(window, "requestAnimationFrame");
  await pause(300);
  expect(frames).not.toHaveBeenCalled();
  push();
  expect(frames).toHaveBeenCalledTimes(1);
});

test("a page that is hidden is not drawn", async () => {
  const { push } = view();
  await settled(host);
  await pause(GLOW_MS + 200);
  vi.spyOn(document, "hidden", "get").mockReturnValue(true);
  const frames = vi.spyOn(window, "requestAnimationFrame");
  push();
  await pause(100);
  expect(frames).not.toHaveBeenCalled();
  vi.restoreAllMocks();
  document.dispatchEvent(new Event("visibilitychange"));
  await settled(host);
  expect(host.querySelector(".oj-where")?.textContent).toBe("live");
});

test("a run that nobody sees is asked for seldom, and often again when somebody does", async () => {
  const { model } = view();
  await settled(host);
  expect(model.sent).toEqual([]);
  vi.spyOn(document, "hidden", "get").mockReturnValue(true);
  document.dispatchEvent(new Event("visibilitychange"));
  document.dispatchEvent(new Event("visibilitychange"));
  expect(model.sent).toEqual([{ type: "pace", ms: 1000 }]);
  vi.restoreAllMocks();
  document.dispatchEvent(new Event("visibilitychange"));
  expect(model.sent.slice(1)).toEqual([{ type: "pace", ms: 0 }]);
});

test("pointing at a map of more experts than pixels names the one that is shown", async () => {
  host = document.body.appendChild(el("div", ""));
  host.style.width = "400px";
  const model = new MockModel({ info: { model: "wide" } });
  const instance = widget();
  instance.initialize({ model });
  instance.render({ model, el: host });
  const frame = new Synthetic(WIDE).next(5, false);
  model.set("status", "running");
  model.frame(encode(frame));
  await settled(host);
  const counts = new Uint32Array(60 * 512);
  frame.countIndex.forEach((index, i) => {
    counts[index] = frame.count[i];
  });
  const panel = host.querySelector(".oj-routing")!;
  expect(panel.querySelector(".oj-legend")?.textContent).toMatch(/shows the highest of up to 2/);
  const cell = panel.querySelector(".oj-bitmap")!.getBoundingClientRect();
  const columns = Math.floor(cell.width);
  expect(columns).toBeLessThan(512);
  for (const column of [0, 100, columns - 1]) {
    const at = {
      clientX: cell.left + ((column + 0.5) * cell.width) / columns,
      clientY: cell.top + (7.5 * cell.height) / 60,
    };
    panel.querySelector("canvas")!.dispatchEvent(new PointerEvent("pointermove", at));
    await settled(host);
    const told = panel.querySelector(".oj-readout")!.textContent!;
    const [, expert, times] = /layer 7 · expert (\d+) · (\d+)/.exec(told)!.map(Number);
    const [from, to] = sharing(column, 512, columns);
    expect(expert >= from && expert < to).toBe(true);
    expect(times).toBe(Math.max(...counts.subarray(7 * 512 + from, 7 * 512 + to)));
  }
});
