import { expect, test } from "vitest";
import {
  byteScale,
  bytes,
  duration,
  integer,
  ms,
  NONE,
  percent,
  plural,
  short,
} from "../../src/widget/format";

test("numbers read well, and missing ones are a dash", () => {
  expect(integer(1234567)).toBe("1,234,567");
  expect([0, 0.0004, -0.0004, 0.1234, 1.234, 12.34, 123.4].map(short)).toEqual([
    "0",
    "0.0004",
    "-0.0004",
    "0.123",
    "1.23",
    "12.3",
    "123",
  ]);
  expect(bytes(2_654_208)).toBe("2.65\u202fMB");
  expect(bytes(0)).toBe("0\u202fB");
  expect(byteScale(1000).unit).toBe("kB");
  expect(percent(1, 3)).toBe("33.3\u202f%");
  expect([0, 4e-6, 0.00096, 0.5, 0.99904, 0.9998, 1].map((share) => percent(share))).toEqual(
    ["0", "0.0004", "0.1", "50", "99.9", "99.98", "100"].map((number) => `${number}\u202f%`),
  );
  expect(bytes(999_600)).toBe("1.00\u202fMB");
  expect([ms(Number.NaN), percent(0, 0), short(Number.NaN)]).toEqual([NONE, NONE, NONE]);
  expect([plural(1, "read"), plural(2, "read")]).toEqual(["1\u202fread", "2\u202freads"]);
});

test("a duration is given in two units at most", () => {
  expect([0.2, 8, 80, 7500].map(duration)).toEqual([
    "1\u202fs",
    "8\u202fs",
    "1\u202fmin 20\u202fs",
    "2\u202fh 5\u202fmin",
  ]);
});
