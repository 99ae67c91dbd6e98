// What a mark shows that several tokens share: the highest of their values, and the median.
//
// The buffers are kept between redraws: nothing is allocated per token.

/** The value of the token with this index; NaN if it has none. */
export type ValueOf = (index: number) => number;

export class Bins {
  /** The index of the highest token of each mark; -1 if none of its tokens has a value. */
  #highest = new Int32Array(0);
  #values = new Float64Array(0);

  /** Fill `peaks` with the highest value of each mark of `size` tokens; NaN where there is none. */
  measure(of: ValueOf, count: number, size: number, peaks: Float64Array): void {
    if (this.#highest.length < peaks.length) this.#highest = new Int32Array(2 * peaks.length);
    for (let mark = 0; mark < peaks.length; mark += 1) {
      const end = Math.min(count, (mark + 1) * size);
      let [most, at] = [Number.NaN, -1];
      for (let i = mark * size; i < end; i += 1) {
        const one = of(i);
        if (one > most || (at < 0 && !Number.isNaN(one))) [most, at] = [one, i];
      }
      peaks[mark] = most;
      this.#highest[mark] = at;
    }
  }

  /** The index of the highest token of a mark, as last measured. */
  peakOf(mark: number): number {
    return this.#highest[mark];
  }

  /** The median over tokens [from, to), the lower of two; NaN if none of them has a value. */
  median(of: ValueOf, from: number, to: number): number {
    if (this.#values.length < to - from) this.#values = new Float64Array(2 * (to - from));
    let n = 0;
    for (let i = from; i < to; i += 1) {
      const one = of(i);
      if (!Number.isNaN(one)) this.#values[n++] = one;
    }
    return n ? this.#values.subarray(0, n).sort()[(n - 1) >> 1] : Number.NaN;
  }
}
