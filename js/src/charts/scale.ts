// The vertical axis of a plot: which values it reaches, and how high each is drawn.
//
// Pure functions. A few values far above all others do not set the scale: they are drawn to its
// top, and the plot marks and names them.

import { niceStep } from "./axes";

export interface AxisScale {
  /** The values at the bottom and the top of the axis; both 0 if there is nothing to scale to. */
  low: number;
  top: number;
  log: boolean;
}

/** The share of the marks that may lie above the axis, and how many may in a short run. */
const SHARE_ABOVE = 0.01;
const FEW_ABOVE = 3;
/** In a short run at most one mark in this many lies above the axis. */
const MARKS_PER_ONE_ABOVE = 8;
/** Marks up to this many times the highest ordinary one are not cut off. */
const ROOM = 2;
/** A logarithmic axis has at most this many powers of ten. */
const MOST_DECADES = 6;

/** Where the vertical axis may end, within one power of ten. */
const TOPS = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10] as const;

/** A round end for an axis that must reach `top`; it changes seldom as `top` grows. */
export function ceiling(top: number): number {
  if (!(top > 0)) return 0;
  const power = 10 ** Math.floor(Math.log10(top) + 1e-9);
  return power * (TOPS.find((end) => end * power >= top * (1 - 1e-9)) ?? 10);
}

/**
 * The value that a linear axis must reach: the highest, unless about the highest hundredth lie far
 * above the rest. `peaks` is sorted in place; what is not positive does not count.
 */
export function reach(peaks: Float64Array): number {
  peaks.sort(); // NaN comes last
  let end = peaks.length;
  while (end > 0 && Number.isNaN(peaks[end - 1])) end -= 1;
  let begin = 0;
  while (begin < end && !(peaks[begin] > 0)) begin += 1;
  const count = end - begin;
  if (!count) return 0;
  const few = Math.min(FEW_ABOVE, Math.floor(count / MARKS_PER_ONE_ABOVE));
  const above = Math.max(Math.ceil(SHARE_ABOVE * count), few) * Number(few > 0);
  const limit = ROOM * peaks[end - 1 - above];
  let last = end - 1;
  while (peaks[last] > limit) last -= 1;
  return peaks[last];
}

/** The axis for marks of the heights `peaks`, whose lowest positive value is `least`. */
export function fitScale(peaks: Float64Array, least: number, log: boolean): AxisScale {
  if (!log) return { low: 0, top: ceiling(reach(peaks)), log };
  let most = 0;
  for (const peak of peaks) if (peak > most) most = peak;
  const top = ceiling(most);
  if (!top) return { low: 0, top, log };
  const from = Math.max(least > 0 ? least : most, top / 10 ** MOST_DECADES);
  const low = 10 ** Math.floor(Math.log10(from) + 1e-9);
  return { low: low < top ? low : low / 10, top, log };
}

/** How high a value is drawn: 0 at the axis, 1 at its top and above. */
export function heightOf(value: number, { low, top, log }: AxisScale): number {
  if (!(value > low) || !(top > low)) return 0;
  if (value >= top) return 1;
  return log ? Math.log(value / low) / Math.log(top / low) : value / top;
}

/** Whether a value lies above the axis, which marks and names it. */
export function isAbove(value: number, { top }: AxisScale): boolean {
  return value > top * (1 + 1e-6);
}

/** The values that get a label, about `wanted` of them, round when divided by `factor`. */
export function scaleTicks({ low, top, log }: AxisScale, factor: number, wanted: number): number[] {
  const out: number[] = [];
  if (!(top > low)) return out;
  if (!log) {
    const step = niceStep(top / factor / Math.max(1.5, wanted));
    for (let n = 0; n * step <= (top / factor) * (1 + 1e-9); n += 1) out.push(n * step * factor);
    if (out.length < 2) out.push(top); // round as well
    return out;
  }
  const decades = Math.log10(top / low);
  const every = Math.max(1, Math.ceil(decades / Math.max(1.5, wanted)));
  const within = 3 * decades <= wanted + 1 ? [1, 2, 5] : [1];
  const first = Math.ceil(Math.log10(low / factor) - 1e-9);
  for (let power = first; factor * 10 ** power <= top * (1 + 1e-9); power += every) {
    for (const part of within) {
      const value = part * factor * 10 ** power;
      if (value <= top * (1 + 1e-9)) out.push(value);
    }
  }
  if (out.length < 2) out.push(top);
  return out;
}
