// The vertical axis: what it reaches, what lies above it, and where values are drawn.

import { expect, test } from "vitest";
import { Bins } from "../../src/charts/bins";
import {
  type AxisScale,
  ceiling,
  fitScale,
  heightOf,
  isAbove,
  reach,
  scaleTicks,
} from "../../src/charts/scale";

/** A repeatable random number in [0, 1). */
function randomly(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return state / 0x80000000;
  };
}

/** 60 runs of different lengths: times that vary twofold, some of them 100 times as high. */
function runs(): { peaks: number[]; outliers: number }[] {
  return Array.from({ length: 60 }, (_, seed) => {
    const random = randomly(seed + 1);
    const count = Math.floor(2 + 400 * random() ** 2);
    const peaks = Array.from({ length: count }, () => 5 + 5 * random());
    const outliers = seed % 4;
    for (let i = 0; i < Math.min(outliers, count); i += 1)
      peaks[Math.floor((i * count) / 4)] *= 100;
    return { peaks, outliers: Math.min(outliers, count) };
  });
}

test("a few outliers of a hundred times do not set the scale, from three dozen tokens on", () => {
  let cut = 0;
  for (const { peaks } of runs().filter((each) => each.peaks.length >= 32)) {
    const top = reach(Float64Array.from(peaks));
    expect(top).toBeGreaterThan(5);
    expect(top).toBeLessThanOrEqual(10);
    cut += peaks.filter((peak) => peak > top).length;
  }
  expect(cut).toBeGreaterThan(30);
});

test("at most a hundredth of the marks lie above the axis, or three; each is far above it", () => {
  for (const { peaks } of runs()) {
    const top = reach(Float64Array.from(peaks));
    const above = peaks.filter((peak) => peak > top);
    expect(above.length).toBeLessThanOrEqual(Math.max(3, Math.ceil(peaks.length / 100)));
    expect(above.length).toBeLessThanOrEqual(Math.max(1, peaks.length / 8));
    const limit = Math.max(...peaks.filter((peak) => peak <= top));
    for (const peak of above) expect(peak).toBeGreaterThan(limit);
    expect(peaks).toContain(top);
    // Nothing that fits twice the ordinary marks is cut off.
    if (above.length) expect(Math.min(...above)).toBeGreaterThan(1.5 * limit);
  }
});

test.each([
  ["no marks", [], 0],
  ["no values", [Number.NaN, Number.NaN], 0],
  ["nothing but zeros", [0, 0, 0], 0],
  ["one mark", [7], 7],
  ["too few to call one an outlier", [1, 1, 1, 100], 100],
  ["marks without reads do not count", [...Array(60).fill(0), 3, Number.NaN, 4], 4],
  ["one of nine", [1, 1, 1, 1, 1, 1, 1, 1, 100], 1],
  ["a spread without outliers", Array.from({ length: 100 }, (_, i) => i), 99],
])("%s", (_, peaks, top) => {
  expect(reach(Float64Array.from(peaks as number[]))).toBe(top);
});

test("a logarithmic axis reaches every value, from a power of ten on", () => {
  for (const { peaks } of runs()) {
    const least = Math.min(...peaks);
    const scale = fitScale(Float64Array.from(peaks), least, true);
    expect(scale.low).toBeLessThanOrEqual(least);
    expect(Math.log10(scale.low) % 1).toBeCloseTo(0);
    for (const peak of peaks) expect(isAbove(peak, scale)).toBe(false);
    const heights = [...peaks].sort((a, b) => a - b).map((peak) => heightOf(peak, scale));
    expect(heights).toEqual([...heights].sort((a, b) => a - b));
  }
  const wide = fitScale(Float64Array.of(1e-9, 1e3), 1e-9, true);
  expect(wide.low).toBeCloseTo(1e-3, 12);
  expect(fitScale(new Float64Array(3), Number.POSITIVE_INFINITY, true).top).toBe(0);
});

test("heights run from the axis to its top, and stay there", () => {
  const linear: AxisScale = { low: 0, top: 10, log: false };
  expect([0, 5, 10, 1000, Number.NaN, -1].map((v) => heightOf(v, linear))).toEqual([
    ...[0, 0.5, 1, 1, 0, 0],
  ]);
  const log: AxisScale = { low: 0.1, top: 10, log: true };
  expect([0, 0.1, 1, 10, 99].map((v) => Number(heightOf(v, log).toFixed(9)))).toEqual([
    ...[0, 0, 0.5, 1, 1],
  ]);
  expect(heightOf(5, { low: 0, top: 0, log: false })).toBe(0);
});

test("ticks are round in the unit of the labels, and on the axis", () => {
  const labels = (scale: AxisScale, factor: number, wanted: number) =>
    scaleTicks(scale, factor, wanted).map((tick) => Number((tick / factor).toPrecision(6)));
  expect(labels({ low: 0, top: 10, log: false }, 1, 5)).toEqual([0, 2, 4, 6, 8, 10]);
  expect(labels({ low: 0, top: 2.5e6, log: false }, 1e6, 3)).toEqual([0, 1, 2]);
  expect(labels({ low: 0, top: 40, log: false }, 1, 1.5)).toEqual([0, 40]); // a low plot
  expect(labels({ low: 0.1, top: 120, log: true }, 1, 5)).toEqual([0.1, 1, 10, 100]);
  expect(labels({ low: 1, top: 10, log: true }, 1, 5)).toEqual([1, 2, 5, 10]);
  expect(labels({ low: 1, top: 25, log: true }, 1, 2)).toEqual([1, 10]);
  expect(labels({ low: 0.1, top: 4, log: true }, 1, 1.5)).toEqual([0.1, 4]);
  expect(labels({ low: 1e3, top: 1e9, log: true }, 1e6, 3)).toEqual([0.001, 0.1, 10, 1000]);
  expect(labels({ low: 0, top: 0, log: false }, 1, 5)).toEqual([]);
});

test("a scale's end is round, and grows seldom", () => {
  expect([0.03, 0.9, 1, 1.1, 7, 9.5, 23, 101].map(ceiling)).toEqual([
    0.03, 1, 1, 1.2, 8, 10, 25, 120,
  ]);
  expect([ceiling(0), ceiling(Number.NaN)]).toEqual([0, 0]);
});

test("a mark that tokens share has their highest value, its token, and their median", () => {
  const values = [1, 9, 2, Number.NaN, Number.NaN, Number.NaN, 4];
  const bins = new Bins();
  const peaks = new Float64Array(3);
  const of = (i: number) => values[i];
  bins.measure(of, values.length, 3, peaks);
  expect(peaks).toEqual(Float64Array.of(9, Number.NaN, 4));
  expect([0, 1, 2].map((mark) => bins.peakOf(mark))).toEqual([1, -1, 6]);
  expect(bins.median(of, 0, 3)).toBe(2);
  expect(bins.median(of, 3, 6)).toBeNaN();
  expect(bins.median(of, 0, 7)).toBe(2);
});
