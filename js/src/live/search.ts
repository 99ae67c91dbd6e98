// Binary search.

/** The first of `n` indices for which `test` holds, as it does for all after; `n` if for none. */
export function firstWhere(n: number, test: (i: number) => boolean): number {
  let [low, high] = [0, n];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (test(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}
