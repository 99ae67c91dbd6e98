// Bars, lines and axes over the run's tokens: how much of them is drawn, and where.

import { afterEach, expect, test, vi } from "vitest";
import { niceStep, wholeTicks } from "../../src/charts/axes";
import { Bars } from "../../src/charts/bars";
import { Focus } from "../../src/charts/focus";
import { Lines } from "../../src/charts/lines";
import { ceiling, means } from "../../src/charts/plot";
import { highest } from "../../src/charts/sparkline";
import { capacityFor, type StepRange } from "../../src/charts/step-range";
import "../../src/live.css";
import { el } from "../../src/widget/dom";
import { readTheme } from "../../src/widget/theme";

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

const range = (n: number): StepRange => ({
  ...{ from: 0, to: capacityFor(n), origin: 0, prompt: false },
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
    bars.draw({ shown: range(values.length), parts, title: "ms" }, theme);
    painted.push(bars.plot.painted);
  }
  const whole = painted.flatMap((n, i) => (n > 1 ? [i] : []));
  expect(whole).toEqual([24, 28, 32]); // room for 24 is full; a higher bar; room for 32 is full
  bars.draw({ shown: range(34), parts: [{ values, colour: "red" }], title: "ms" }, theme);
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
    bars.draw({ shown: { ...range(150), to: 160 }, parts, title: "ms" }, theme);
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
    lines.draw({ shown: range(5), lines: [{ ...line, shared: "mean" }], title: "ms" }, theme);
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
  expect([1, 24, 25, 33, 49, 65].map(capacityFor)).toEqual([24, 24, 32, 48, 64, 96]);
});

test("ticks are round and few", () => {
  expect(wholeTicks(0, 48, 6)).toEqual([0, 10, 20, 30, 40]);
  expect(wholeTicks(1, 4, 8)).toEqual([1, 2, 3]);
  expect([0.03, 0.3, 3, 30].map((raw) => niceStep(raw))).toEqual([0.05, 0.5, 5, 50]);
});

test("bars share tokens by their mean", () => {
  expect(means([1, 3, 5, 7, 9], 2, 0, 3)).toEqual(Float64Array.of(2, 6, 9));
  expect(means([1, 3, 5, 7, 9], 2, 1, 2)).toEqual(Float64Array.of(6));
});

test("the playhead moves without redrawing a mark, and what comes after it is dimmed", () => {
  const plot = box(600, 200);
  const shown = new Focus(() => {});
  const bars = new Bars("bars", shown, controller.signal);
  plot.append(bars.plot.canvas.node);
  const theme = readTheme(host);
  const draw = () => {
    const parts = [{ values: new Float32Array(24).fill(5), colour: "red" }];
    bars.draw({ shown: range(24), parts, title: "ms" }, theme);
  };
  const seen = (name: string) => plot.querySelector<HTMLElement>(`.${name}:not([hidden])`);
  draw();
  expect(bars.plot.painted).toBe(24);
  expect([seen("oj-veil"), seen("oj-playhead"), seen("oj-preview")]).toEqual([null, null, null]);
  shown.moveTo(5);
  shown.hoverStep(9);
  draw();
  expect(bars.plot.painted).toBe(0);
  const [veil, playhead, preview] = ["oj-veil", "oj-playhead", "oj-preview"].map((name) =>
    seen(name)!.getBoundingClientRect(),
  );
  expect(playhead.right).toBeCloseTo(veil.left, 0);
  expect(preview.left).toBeGreaterThan(veil.left);
  expect(getComputedStyle(seen("oj-veil")!).opacity).toBe("0.65");
  shown.moveTo(23);
  draw();
  expect([seen("oj-veil"), seen("oj-preview")]).toEqual([null, null]);
});

test("a sparkline keeps the highest of the values that share a point", () => {
  expect(highest([1, 9, 2, Number.NaN], 2)).toEqual([9, 2]);
  expect(highest([Number.NaN, 3], 32)).toEqual([Number.NaN, 3]);
  expect(highest([], 32)).toEqual([]);
});

test("Enter moves the playhead to the token under the pointer, or else to the last", () => {
  const shown = new Focus(() => {});
  const press = (key: string) => shown.stepKey(new KeyboardEvent("keydown", { key }), 12);
  press("a");
  expect(shown.at).toBeNull();
  press("Enter");
  expect(shown.at).toBe(12);
  shown.hoverStep(10);
  press("Enter");
  expect([shown.at, shown.step]).toEqual([10, 10]);
  shown.clear();
  expect([shown.at, shown.any]).toEqual([null, false]);
});
