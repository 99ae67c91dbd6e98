// How much of the run view is redrawn, and when: counted, never timed.

import { afterEach, expect, test, vi } from "vitest";
import "../../src/live.css";
import widget from "../../src/live";
import { KEPT_STEPS } from "../../src/live/limits";
import { RoutingPanel } from "../../src/live/panels/routing";
import { CHUNK } from "../../src/live/panels/text-log";
import { RedrawScheduler } from "../../src/live/redraw-scheduler";
import { el } from "../../src/widget/dom";
import { encode, MockModel, Synthetic, settled } from "../synthetic";

const SHAPE = { layers: 4, experts: 16, k: 2, slots: 20, prompt: 5, expertBytes: 1_000_000 };

let host: HTMLElement;

afterEach(() => {
  host?.remove();
  vi.restoreAllMocks();
});

test("outdated parts are drawn in turn, a group a frame, and none is left out", () => {
  const scheduler = new RedrawScheduler([[0], [1], [2], [3]], [[0, 1], [2], [3]]);
  const taken = (n: number) => Array.from({ length: n }, () => scheduler.take());
  expect(taken(3)).toEqual([[0, 1], [2], [3]]); // the first picture
  expect([scheduler.pending, scheduler.urgent]).toEqual([false, false]);
  scheduler.mark();
  expect(taken(2)).toEqual([[0], [1]]);
  scheduler.mark(); // marked again before the last was drawn
  expect(taken(5)).toEqual([[2], [3], [0], [1], []]);
  scheduler.mark();
  scheduler.markUrgent(); // an action draws all in as many frames as it has groups
  const drawn = taken(3);
  expect(drawn.flat().sort()).toEqual([0, 1, 2, 3]);
  expect([scheduler.urgent, scheduler.pending]).toEqual([false, false]);
  scheduler.markUrgent();
  scheduler.take();
  scheduler.mark(); // a message between the frames does not make them more
  taken(2);
  expect([scheduler.urgent, scheduler.pending]).toEqual([false, true]);
});

/** A view of a run in a box on the page. */
function view(): { model: MockModel; run: Synthetic; push: (n?: number) => void } {
  host = document.body.appendChild(el("div", ""));
  const model = new MockModel({ info: { model: "tiny" } });
  const instance = widget();
  instance.initialize({ model });
  instance.render({ model, el: host });
  const run = new Synthetic(SHAPE);
  model.set("status", "running");
  model.frame(encode(run.next(5, false)));
  const push = (n = 1) => model.frame(encode(run.next(n, true)));
  return { model, run, push };
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

test("a burst of frames is drawn once or twice, not once each", async () => {
  const { push } = view();
  await settled(host);
  const drawn = vi.spyOn(RoutingPanel.prototype, "draw");
  for (let i = 0; i < 200; i += 1) push();
  await settled(host);
  expect(drawn.mock.calls.length).toBeGreaterThan(0);
  expect(drawn.mock.calls.length).toBeLessThan(4);
});

test("a token adds its own elements to the page, and few", async () => {
  const { push } = view();
  for (let i = 0; i < 50; i += 1) push();
  await settled(host);
  const before = host.querySelectorAll("*").length;
  for (let i = 0; i < 100; i += 1) push();
  await settled(host);
  const added = host.querySelectorAll("*").length - before;
  expect(added).toBeGreaterThanOrEqual(100);
  expect(added).toBeLessThanOrEqual(100 + Math.ceil(100 / CHUNK)); // tokens stand in chunks
});

test("after ten thousand tokens the page holds no more than the newest", async () => {
  const { push } = view();
  await settled(host);
  for (let i = 0; i < 10_000; i += 1) push();
  await settled(host);
  const tokens = host.querySelectorAll(".oj-token").length;
  expect(tokens).toBeGreaterThan(KEPT_STEPS / 2);
  expect(tokens).toBeLessThanOrEqual(2 * KEPT_STEPS);
  const chunks = host.querySelectorAll(".oj-chunk").length;
  expect(chunks).toBeLessThan(2 + tokens / CHUNK);
  expect(host.querySelectorAll("*").length - tokens - chunks).toBeLessThan(400);
  expect(host.querySelector(".oj-text .oj-subtitle")?.textContent).toMatch(/^10.001.tokens$/);
});

test("among thousands of tokens a move of the playhead draws no mark, and changes few tokens", async () => {
  const { push } = view();
  for (let i = 0; i < 3000; i += 1) push();
  await settled(host);
  const slider = host.querySelector<HTMLInputElement>(".oj-slider")!;
  const move = async (step: number) => {
    slider.value = String(step);
    slider.dispatchEvent(new Event("input"));
    await settled(host);
  };
  const dimmed = () =>
    [...host.querySelectorAll(".oj-token")].filter((each) => each.closest(".oj-future")).length;
  await move(1500);
  await vi.waitFor(() => expect(dimmed()).toBe(3005 - 1501), { timeout: 5_000 });
  const changes = vi.fn();
  const observer = new MutationObserver((records) => records.forEach(changes));
  observer.observe(host.querySelector(".oj-log")!, { attributes: true, subtree: true });
  const lines = vi.spyOn(CanvasRenderingContext2D.prototype, "lineTo");
  await move(1501);
  observer.disconnect();
  expect(dimmed()).toBe(3005 - 1502);
  expect(changes.mock.calls.length).toBeLessThan(8);
  // The sparklines draw their dots anew: 32 points each.
  expect(lines.mock.calls.length).toBeLessThan(4 * 32);
});

test("a jump shows the paragraphs around it at once, and the others soon after", async () => {
  const { push, run } = view();
  run.paragraph = 20;
  for (let i = 0; i < 3000; i += 1) push();
  await settled(host);
  const hidden = () =>
    [...host.querySelectorAll<HTMLElement>(".oj-paragraph")].filter(
      ({ style }) => style.contentVisibility === "hidden",
    ).length;
  const slider = host.querySelector<HTMLInputElement>(".oj-slider")!;
  slider.value = "300";
  slider.dispatchEvent(new Event("input"));
  await vi.waitFor(() => expect(hidden()).toBeGreaterThan(25), { interval: 5 });
  const inSight = () => {
    const [at, log] = [".oj-at", ".oj-log"].map((name) =>
      host.querySelector(name)!.getBoundingClientRect(),
    );
    return at.top >= log.top - 1 && at.bottom <= log.bottom + 1;
  };
  // The frame after the jump scrolls again, by heights that are known then.
  await vi.waitFor(() => expect(inSight()).toBe(true), { interval: 5 });
  await vi.waitFor(() => expect(hidden()).toBe(0), { timeout: 5_000 });
});

test("without messages nothing is drawn", async () => {
  const { push } = view();
  push();
  await settled(host);
  await pause(300);
  const frames = vi.spyOn(window, "requestAnimationFrame");
  await pause(300);
  expect(frames).not.toHaveBeenCalled();
  push();
  expect(frames).toHaveBeenCalledTimes(1);
});

test("a page that is hidden is not drawn", async () => {
  const { push } = view();
  await settled(host);
  await pause(300);
  vi.spyOn(document, "hidden", "get").mockReturnValue(true);
  const frames = vi.spyOn(window, "requestAnimationFrame");
  push();
  await pause(100);
  expect(frames).not.toHaveBeenCalled();
  vi.restoreAllMocks();
  document.dispatchEvent(new Event("visibilitychange"));
  await settled(host);
  expect(host.querySelector(".oj-where")?.textContent).toBe("live");
});

test("an unseen run requests frames seldom, and often again when it is seen", async () => {
  const { model } = view();
  await settled(host);
  expect(model.sent).toEqual([]);
  vi.spyOn(document, "hidden", "get").mockReturnValue(true);
  document.dispatchEvent(new Event("visibilitychange"));
  document.dispatchEvent(new Event("visibilitychange"));
  expect(model.sent).toEqual([{ type: "pace", ms: 1000 }]);
  vi.restoreAllMocks();
  document.dispatchEvent(new Event("visibilitychange"));
  expect(model.sent.slice(1)).toEqual([{ type: "pace", ms: 0 }]);
});
