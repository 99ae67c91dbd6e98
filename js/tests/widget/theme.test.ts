import { expect, test } from "vitest";
import { parse } from "../../src/widget/theme";

test("colours are read in every form a browser gives", () => {
  expect(parse("#4a86c4")).toEqual([74, 134, 196, 1]);
  expect(parse("#fff")).toEqual([255, 255, 255, 1]);
  expect(parse("rgba(1, 2, 3, 0.5)")).toEqual([1, 2, 3, 0.5]);
  expect(parse("color(srgb 1 0 0)")).toEqual([255, 0, 0, 1]);
  expect(parse("")[3]).toBe(0);
});
