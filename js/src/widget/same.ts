// Whether there is anything new to draw or to count.

/** Whether two lists have the same members, by identity. */
export const same = (a: readonly unknown[], b: readonly unknown[]): boolean =>
  a.length === b.length && a.every((each, n) => each === b[n]);
