// Bars, lines and axes over the run's tokens: how much of them is drawn, and where.

import { afterEach, expect, test, vi } from "vitest";
import { niceStep, wholeTicks } from "../../src/charts/axes";
import { Bars } from "../../src/charts/bars";
import { Focus } from "../../src/charts/focus";
import { Lines } from "../../src/charts/lines";
import { highest } from "../../src/charts/sparkline";
import { capacityFor, type StepRange } from "../../src/charts/step-range";
import "../../src/live.css";
import { el } from "../../src/widget/dom";
import { byteScale } from "../../src/widget/format";
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
    values.push(i === 28 ? 9 : 5);
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
    lines.draw({ shown: range(5), lines: [{ ...line, shared: "median" }], title: "ms" }, theme);
    return lineTo.mock.calls.length;
  });
  // The second raises the scale and is drawn with the first.
  expect(drawn).toEqual([0, 1, 0, 0, 1]);
});

test("an axis has room for a third more tokens at most", () => {
  expect([1, 24, 25, 33, 49, 65].map(capacityFor)).toEqual([24, 24, 32, 48, 64, 96]);
});

test("ticks are round and few", () => {
  expect(wholeTicks(0, 48, 6)).toEqual([0, 10, 20, 30, 40]);
  expect(wholeTicks(1, 4, 8)).toEqual([1, 2, 3]);
  expect([0.03, 0.3, 3, 30].map((raw) => niceStep(raw))).toEqual([0.05, 0.5, 5, 50]);
});

/** Draw `values` as bars of one part; returns the plot. */
function barsOf(values: readonly number[], width: number, more: object = {}): Bars {
  const plot = box(width, 200);
  const bars = new Bars("bars", focus, controller.signal);
  plot.append(bars.plot.canvas.node);
  const parts = [{ values: Float32Array.from(values), colour: "rgb(0, 0, 200)" }];
  const shown = { ...range(values.length), to: values.length };
  bars.draw({ shown, parts, title: "ms", ...more }, readTheme(host));
  return bars;
}

/** The height of the blue bar at a share of the axis's width, as a share of the axis. */
function heightAt(bars: Bars, share: number): number {
  const { node, context, scale } = bars.plot.canvas;
  const x = Math.round((44 + share * (node.width / scale - 54)) * scale);
  const [top, base] = [Math.round(6 * scale), Math.round(182 * scale)];
  const { data } = context.getImageData(x, top, 1, base - top);
  let high = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 2] > 150 && data[i] < 60 && data[i + 3] > 128) high += 1;
  }
  return high / (base - top);
}

test("an outlier of a hundred times is cut off, marked and named, and leaves the others high", () => {
  const values = Array.from({ length: 60 }, () => 5);
  values[6] = 500;
  const bars = barsOf(values, 654);
  expect(heightAt(bars, 6.4 / 60)).toBeGreaterThan(0.95);
  expect(heightAt(bars, 30.4 / 60)).toBeCloseTo(1, 1);
  expect(bars.note("the slowest")).toBe("▲ max 500\u202fms, token 7");
  const { context, scale } = bars.plot.canvas;
  const above = (token: number) =>
    context.getImageData((44 + 10 * (token + 0.5)) * scale, 4 * scale, 1, 1).data[3];
  expect(above(6)).toBeGreaterThan(128);
  expect(above(30)).toBe(0);
  host.remove();
  expect(barsOf(values.fill(5), 654).plot.overflow).toBe("");
});

test("on a logarithmic axis the outlier fits, and parts keep their shares", () => {
  const values = Array.from({ length: 60 }, () => 5);
  values[6] = 500;
  const bars = barsOf(values, 654, { log: true });
  expect(bars.plot.overflow).toBe("");
  expect(heightAt(bars, 6.4 / 60)).toBeGreaterThan(0.95);
  expect(heightAt(bars, 30.4 / 60)).toBeGreaterThan(0.2);
  expect(heightAt(bars, 30.4 / 60)).toBeLessThan(0.4);
});

test("a bar that tokens share is as high as the highest of them, and a line is their median", () => {
  const values = Array.from({ length: 1000 }, (_, i) => (i % 10 === 3 ? 9 : 2));
  const bars = barsOf(values, 354);
  expect(bars.plot.shared).toBe(10);
  expect(heightAt(bars, 0.501)).toBeGreaterThan(0.8);
  expect(bars.note("the slowest")).toBe("each bar is the slowest of 10 tokens; line: their median");
  const { context, scale } = bars.plot.canvas;
  const row = context.getImageData(
    150 * scale,
    Math.round(182 - (2 / 10) * 176 - 0.5) * scale,
    20,
    1,
  );
  expect(row.data[2]).toBeLessThan(100); // the ink of the line, over the blue of the bar
});

test("tokens that share a bar are shown by the one that has most of a part, if that is wanted", () => {
  const plot = box(354, 200);
  const bars = new Bars("bars", focus, controller.signal);
  plot.append(bars.plot.canvas.node);
  const misses = Float32Array.from({ length: 1000 }, (_, i) => (i % 10 === 3 ? 6 : 0));
  const parts = [
    { values: misses.map((value) => 8 - value), colour: "red" },
    { values: misses, colour: "rgb(0, 0, 200)" },
  ];
  const shown = { ...range(1000), to: 1000 };
  bars.draw({ shown, parts, by: misses, title: "lookups" }, readTheme(host));
  expect(heightAt(bars, 0.501)).toBeCloseTo(0.75, 1);
});

test("a unit suits the axis and not what lies above it, and the name has one of its own", () => {
  const values = Array.from({ length: 60 }, () => 2e6);
  values[6] = 4e9;
  const fillText = vi.spyOn(CanvasRenderingContext2D.prototype, "fillText");
  const bars = barsOf(values, 654, { units: byteScale });
  const texts = fillText.mock.calls.map(([text]) => text);
  expect(texts).toContain("MB");
  expect(texts).toContain("0.5");
  expect(bars.plot.overflow).toBe("▲ max 4.00\u202fGB, token 7");
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
