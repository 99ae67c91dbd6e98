import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Pieces } from "../../src/live/pieces";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

test("pieces follow one another at rest until there is no more", () => {
  const left = [true, true, false];
  const piece = vi.fn(() => left.shift()!);
  new Pieces().begin(piece);
  expect(piece).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1000);
  expect(piece).toHaveBeenCalledTimes(3);
});

test("while something is drawn no piece is", () => {
  const pieces = new Pieces();
  const piece = vi.fn(() => false);
  pieces.begin(piece);
  for (let frame = 0; frame < 30; frame += 1) {
    vi.advanceTimersByTime(16);
    pieces.defer();
  }
  expect(piece).not.toHaveBeenCalled();
  vi.advanceTimersByTime(60);
  expect(piece).toHaveBeenCalledOnce();
});

test("an ended piece is not done, and another takes its place", () => {
  const pieces = new Pieces();
  const [first, second] = [vi.fn(() => true), vi.fn(() => false)];
  pieces.begin(first);
  pieces.begin(second);
  vi.advanceTimersByTime(1000);
  pieces.begin(first);
  pieces.end();
  pieces.defer();
  vi.advanceTimersByTime(1000);
  expect(first).not.toHaveBeenCalled();
  expect(second).toHaveBeenCalledOnce();
});
