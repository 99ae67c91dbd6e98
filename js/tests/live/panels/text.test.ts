// The text: what its colour means, choosing tokens, and the experts of each.

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import "../../../src/live.css";
import widget from "../../../src/live";
import type { Frame } from "../../../src/live/frames";
import { LEVELS, levelOf, scaleOf } from "../../../src/live/panels/text-colour";
import { CHUNK } from "../../../src/live/panels/text-log";
import { encode, MockModel, Synthetic, settled } from "../../synthetic";

const SHAPE = { layers: 4, experts: 16, k: 2, slots: 20, prompt: 5, expertBytes: 1_000_000 };

let model: MockModel;
let run: Synthetic;
let host: HTMLElement;
let close = () => {};
/** The frame of the prompt. */
let firstFrame: Frame;

/** A view of a run of `n` tokens after the prompt; over, if `status` says so. */
async function open(n: number, status = "stop", info: object = {}): Promise<Frame[]> {
  model = new MockModel({ info: { model: "tiny", ...info } });
  run = new Synthetic(SHAPE);
  const instance = widget();
  instance.initialize({ model });
  const controller = new AbortController();
  instance.render({ model, el: host, signal: controller.signal });
  close = () => controller.abort();
  model.set("status", "running");
  firstFrame = run.next(5, false);
  const frames = [firstFrame];
  for (let i = 0; i < n; i += 1)
    frames.push(run.next(1, true, i === n - 1 && status !== "running"));
  for (const frame of frames) model.frame(encode(frame));
  model.set("status", status);
  await drawn();
  return frames.slice(1);
}

beforeEach(() => {
  document.body.style.cssText = "margin: 0; --jp-layout-color1: #ffffff";
  host = document.body.appendChild(document.createElement("div"));
});

afterEach(() => {
  close();
  host.remove();
  getSelection()?.removeAllRanges();
});

const drawn = () => settled(host);
const $ = <Kind extends HTMLElement = HTMLElement>(selector: string) =>
  host.querySelector<Kind>(selector)!;
const text = (selector: string) => $(selector).textContent ?? "";
/** The tokens after the prompt's, which comes first. */
const tokens = () => [...host.querySelectorAll<HTMLElement>(".oj-token")].slice(1);
const heats = () => tokens().map((token) => Number(token.style.getPropertyValue("--oj-heat")));
const having = (name: string) => tokens().map((token) => token.classList.contains(name));
const click = (node: Element, keys: MouseEventInit = {}) =>
  node.dispatchEvent(new MouseEvent("click", { bubbles: true, ...keys }));
const press = (selector: string, key: string, keys: KeyboardEventInit = {}) =>
  $(selector).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, ...keys }));

async function colourBy(key: string): Promise<void> {
  const select = $<HTMLSelectElement>(".oj-colour");
  select.value = key;
  select.dispatchEvent(new Event("change"));
  await drawn();
}

const missRate = ({ steps }: Frame) => steps.misses[0] / (steps.misses[0] + steps.hits[0]);

/** The experts, as layer * experts + expert, that the last step of a frame chose. */
const chosenBy = ({ expertsOf }: Frame) =>
  new Set(
    [...expertsOf.slice(-SHAPE.layers * SHAPE.k)].map(
      (e, i) => Math.floor(i / SHAPE.k) * SHAPE.experts + e,
    ),
  );

test("a scale ends at the 99th percentile, and tells what is beyond it", () => {
  const values = Float64Array.from({ length: 200 }, (_, i) => (i === 50 ? 900 : i % 100));
  const scale = scaleOf(values, "zero")!;
  expect(scale).toEqual({ low: 0, high: 99, most: 900 });
  const levels = [-1, 0, 33, 99, 900].map((value) => levelOf(value, scale));
  expect(levels).toEqual([0, 0, Math.round(LEVELS / 3), LEVELS, LEVELS]);
  expect(levelOf(Number.NaN, scale)).toBe(0);
  const narrow = Float64Array.from({ length: 200 }, (_, i) => 7 + i / 200);
  expect(scaleOf(narrow, "low")!.low).toBeCloseTo(7.01);
  expect(scaleOf(Float64Array.of(Number.NaN), "zero")).toBeNull();
  expect(scaleOf(Float64Array.of(0, Number.NaN, 0), "zero")).toEqual({ low: 0, high: 0, most: 0 });
});

test("each token is coloured by its miss rate, and nothing is underlined", async () => {
  const frames = await open(30);
  const { steps } = firstFrame;
  const ofPrompt = steps.misses[4] / (steps.misses[4] + steps.hits[4]);
  const rates = frames.map(missRate);
  const most = Math.max(ofPrompt, ...rates); // of 31 tokens, the 99th percentile is the highest
  expect(heats()).toEqual(rates.map((rate) => Math.round((LEVELS * rate) / most)));
  expect(new Set(heats()).size).toBeGreaterThan(3);
  for (const token of tokens()) {
    expect(getComputedStyle(token).textDecorationLine).toBe("none");
  }
  expect(text(".oj-scale")).toMatch(/^0.%\d+(\.\d)?.%$/);
});

test("the user chooses what the colour means: time, or nothing", async () => {
  const frames = await open(20);
  await colourBy("time");
  const times = frames.map(({ steps }) => steps.tokenMs[0]);
  const levels = heats();
  expect(levels.indexOf(Math.max(...levels))).toBe(times.indexOf(Math.max(...times)));
  expect(text(".oj-scale")).toMatch(/^0.ms\d+(\.\d)?.ms$/);
  await colourBy("none");
  expect(new Set(heats())).toEqual(new Set([0]));
  expect($(".oj-scale").hidden).toBe(true);
  expect(model.requests).toEqual([]);
});

test("a token that arrives late is coloured, and the scale of few tokens is fitted again", async () => {
  const frames = await open(3, "running");
  for (let i = 0; i < 40; i += 1) {
    const frame = run.next(1, true);
    frames.push(frame);
    model.frame(encode(frame));
  }
  await drawn();
  const rates = frames.map(missRate);
  const order = [...rates.keys()].sort((a, b) => rates[a] - rates[b]);
  const levels = order.map((i) => heats()[i]);
  expect(levels).toEqual([...levels].sort((a, b) => a - b));
  expect(Math.max(...levels)).toBe(LEVELS);
});

/** Python's answer to the last question for a column. */
function answer(values: number[] | null, words = ""): void {
  const { about } = model.requests.at(-1) as { about: object };
  const bytes = new DataView(Float32Array.from(values ?? []).buffer);
  model.emit("msg:custom", { type: "told", about, words }, [bytes]);
}

const option = (key: string) => $<HTMLOptionElement>(`.oj-colour option[value="${key}"]`);

test("router entropy waits for the end of the run, then Python is asked once", async () => {
  await open(12, "running");
  expect(option("entropy").disabled).toBe(true);
  expect(option("entropy").title).toBe("It is known when the run is over.");
  model.set("status", "stop");
  await drawn();
  expect(option("entropy").disabled).toBe(false);
  await colourBy("entropy");
  expect(model.requests).toEqual([{ type: "ask", about: { column: "entropy" } }]);
  expect(text(".oj-scale")).toBe("Python computes it…");
  const bits = Array.from({ length: 17 }, (_, step) => 2 + step / 100);
  answer(bits);
  await drawn();
  const levels = heats();
  expect(levels).toEqual([...levels].sort((a, b) => a - b));
  expect(levels.at(-1)).toBe(LEVELS);
  expect(text(".oj-scale")).toMatch(/^2\.04.bits \(p1\)2\.16.bits$/);
  tokens()[3].dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  await drawn();
  expect(text(".oj-text .oj-readout")).toMatch(/router entropy 2\.08.bits$/);
  expect(model.requests).toHaveLength(1);
});

test("where a run has no router weights, the choice says so and cannot be made again", async () => {
  await open(12);
  await colourBy("entropy");
  answer(null, "The router's weights were not recorded in this run.");
  await drawn();
  expect(text(".oj-scale")).toBe("The router's weights were not recorded in this run.");
  await colourBy("miss");
  expect(option("entropy").disabled).toBe(true);
  expect(option("entropy").title).toContain("not recorded");
});

test("a page without a kernel has the entropy in its info, and asks nobody", async () => {
  const bits = new Uint8Array(Float32Array.from({ length: 17 }, (_, i) => i).buffer);
  const base64 = btoa(String.fromCharCode(...bits));
  await open(12, "stop", { columns: { entropy: base64 } });
  await colourBy("entropy");
  expect(Math.max(...heats())).toBe(LEVELS);
  expect(model.requests).toEqual([]);
  press(".oj-routing canvas", "ArrowRight");
  press(".oj-routing canvas", "Enter");
  await drawn();
  expect(option("weight").disabled).toBe(true);
  expect(option("weight").title).toContain("no kernel");
});

test("the weight of an expert is that of the one pinned last", async () => {
  await open(12);
  expect(option("weight").title).toBe("Click an expert in a map first.");
  press(".oj-routing canvas", "ArrowRight"); // the first key shows the first expert
  press(".oj-routing canvas", "ArrowRight");
  press(".oj-routing canvas", "Enter");
  await drawn();
  await colourBy("weight");
  const about = { column: "weight", layer: 0, expert: 1 };
  const asked = model.requests.filter((sent) => "column" in (sent as { about: object }).about);
  expect(asked).toEqual([{ type: "ask", about }]);
  model.emit("msg:custom", { type: "told", about, words: "" }, [
    new DataView(Float32Array.from({ length: 17 }, (_, step) => (step === 9 ? 0.5 : 0)).buffer),
  ]);
  await drawn();
  expect(heats().map((level) => level > 0)).toEqual(heats().map((_, i) => i === 4));
  press(".oj-text .oj-log", "Escape");
  await drawn();
  expect(new Set(heats())).toEqual(new Set([0]));
  expect(text(".oj-scale")).toBe("Click an expert in a map first.");
});

/** How many experts each of some frames' tokens chose, all of them, and any of them. */
function counted(frames: Frame[]): { any: number; all: number } {
  const sets = frames.map(chosenBy);
  const any = new Set(sets.flatMap((set) => [...set]));
  return { any: any.size, all: [...any].filter((e) => sets.every((set) => set.has(e))).length };
}

test("Shift and a click choose tokens from the playhead on, and the map counts only these", async () => {
  const frames = await open(20);
  const before = $<HTMLCanvasElement>(".oj-routing .oj-bitmap").toDataURL();
  click(tokens()[3]);
  click(tokens()[7], { shiftKey: true });
  await drawn();
  expect(having("oj-chosen")).toEqual(frames.map((_, i) => i >= 3 && i <= 7));
  expect(text(".oj-where")).toBe("token 9 of 21");
  expect(text(".oj-routing .oj-subtitle")).toMatch(/^of 5.chosen tokens$/);
  const { any, all } = counted(frames.slice(3, 8));
  const readout = text(".oj-routing .oj-readout").replace(/[\u202f\u00a0]/g, " ");
  expect(readout).toBe(`5 chosen tokens share ${all} of ${any} experts`);
  expect(text(".oj-text .oj-readout")).toMatch(/^5.tokens chosen, token 5 to token 9 · “/);
  expect($<HTMLCanvasElement>(".oj-routing .oj-bitmap").toDataURL()).not.toBe(before);
  click(tokens()[1], { shiftKey: true }); // from the same beginning, the other way
  await drawn();
  expect(having("oj-chosen")).toEqual(frames.map((_, i) => i >= 1 && i <= 3));
  $(".oj-all-tokens").click();
  await drawn();
  expect($(".oj-all-tokens").hidden).toBe(true);
  expect(text(".oj-routing .oj-subtitle")).toBe("");
  expect(host.querySelector(".oj-chosen")).toBeNull();
});

test("Ctrl or Cmd adds a token to the choice, and takes it off", async () => {
  const frames = await open(20);
  click(tokens()[2], { ctrlKey: true });
  click(tokens()[9], { metaKey: true });
  click(tokens()[5], { ctrlKey: true });
  click(tokens()[5], { ctrlKey: true });
  await drawn();
  expect(having("oj-chosen")).toEqual(frames.map((_, i) => i === 2 || i === 9));
  const { any, all } = counted([frames[2], frames[9]]);
  const readout = text(".oj-routing .oj-readout").replace(/[\u202f\u00a0]/g, " ");
  expect(readout).toBe(`2 chosen tokens share ${all} of ${any} experts`);
});

test("a selection of text chooses the tokens in it, and a click ends both", async () => {
  const frames = await open(20);
  const [from, to] = [tokens()[4], tokens()[6]].map((token) => token.firstChild as Text);
  getSelection()!.setBaseAndExtent(from, from.length, to, 1); // it only touches the first
  await drawn();
  expect(having("oj-chosen")).toEqual(frames.map((_, i) => i === 5 || i === 6));
  getSelection()!.setBaseAndExtent(from, 1, to, 0);
  await drawn();
  expect(having("oj-chosen")).toEqual(frames.map((_, i) => i === 4 || i === 5));
  press(".oj-log", "Escape");
  await drawn();
  expect(host.querySelector(".oj-chosen")).toBeNull();
  expect(getSelection()!.isCollapsed).toBe(true);
});

test("Shift and the arrow keys extend the choice from the playhead; without Shift it ends", async () => {
  const frames = await open(20);
  click(tokens()[6]);
  for (let i = 0; i < 3; i += 1) press(".oj-log", "ArrowRight", { shiftKey: true });
  press(".oj-log", "ArrowLeft", { shiftKey: true });
  await drawn();
  expect(having("oj-chosen")).toEqual(frames.map((_, i) => i >= 6 && i <= 8));
  expect(having("oj-at").indexOf(true)).toBe(8);
  expect($(".oj-text .oj-readout").getAttribute("aria-live")).toBe("polite");
  expect($(".oj-routing .oj-readout").getAttribute("aria-live")).toBe("polite");
  press(".oj-log", "Home", { shiftKey: true });
  await drawn();
  expect(having("oj-chosen")).toEqual(frames.map((_, i) => i <= 6));
  press(".oj-log", "ArrowRight");
  await drawn();
  expect(host.querySelector(".oj-chosen")).toBeNull();
  expect(having("oj-at").indexOf(true)).toBe(0);
});

test("Escape ends the choice first, and then returns to the end of the run", async () => {
  await open(20);
  click(tokens()[6]);
  press(".oj-log", "ArrowRight", { shiftKey: true });
  press(".oj-log", "Escape");
  await drawn();
  expect(host.querySelector(".oj-chosen")).toBeNull();
  expect(having("oj-at").indexOf(true)).toBe(7);
  press(".oj-log", "Escape");
  await drawn();
  expect(host.querySelector(".oj-at")).toBeNull();
});

test("pinned experts mark their tokens, and say how many there are", async () => {
  const frames = await open(20);
  const [one, other] = [frames[3].expertsOf[0], frames[8].expertsOf[2]]; // of layers 0 and 1
  const go = (layer: number, expert: number, keys: KeyboardEventInit = {}) => {
    press(".oj-routing canvas", "ArrowRight");
    for (let i = 0; i < SHAPE.experts; i += 1) press(".oj-routing canvas", "ArrowLeft");
    for (let i = 0; i < SHAPE.layers; i += 1) press(".oj-routing canvas", "ArrowUp");
    for (let i = 0; i < layer; i += 1) press(".oj-routing canvas", "ArrowDown");
    for (let i = 0; i < expert; i += 1) press(".oj-routing canvas", "ArrowRight");
    press(".oj-routing canvas", "Enter", keys);
  };
  const used = [one, SHAPE.experts + other].map((e) => frames.map((f) => chosenBy(f).has(e)));
  const count = (flags: boolean[]) => flags.filter(Boolean).length;
  const readout = () => text(".oj-text .oj-readout").replace(/[\u202f\u00a0]/g, " ");
  // The token that the prompt produced counts as well.
  const first = chosenBy(firstFrame);
  go(0, one);
  await drawn();
  expect(having("oj-highlight")).toEqual(used[0]);
  const n = count(used[0]) + Number(first.has(one));
  expect(readout()).toBe(`${n} of the run’s 21 tokens chose layer 0 expert ${one}`);
  go(1, other, { shiftKey: true });
  $(".oj-routing canvas").dispatchEvent(new PointerEvent("pointerleave"));
  await drawn();
  const either = frames.map((_, i) => used[0][i] || used[1][i]);
  expect(having("oj-highlight")).toEqual(either);
  const firsts = [first.has(one), first.has(SHAPE.experts + other)];
  const any = count(either) + Number(firsts.some(Boolean));
  const all =
    frames.filter((_, i) => used[0][i] && used[1][i]).length + Number(firsts.every(Boolean));
  expect(readout()).toBe(
    `${any} of the run’s 21 tokens chose any of 2 experts; ${all} chose all of them`,
  );
});

test("moving the playhead changes the tokens beside it, not all that come after", async () => {
  await open(900);
  const all = tokens().length;
  const slider = $<HTMLInputElement>(".oj-slider");
  const moveTo = async (at: number) => {
    slider.value = String(Number(slider.min) + at);
    slider.dispatchEvent(new Event("input"));
    await drawn();
  };
  const dimmed = () => tokens().filter((token) => token.closest(".oj-future")).length;
  const willBeDimmed = (n: number) =>
    vi.waitFor(() => expect(dimmed()).toBe(n), { timeout: 5_000 });
  await moveTo(100);
  await willBeDimmed(all - 100);
  let changed = 0;
  const observer = new MutationObserver((found) => {
    changed += found.length;
  });
  observer.observe($(".oj-log"), { attributes: true, subtree: true });
  await moveTo(101);
  expect([dimmed(), changed < 10]).toEqual([all - 101, true]);
  await moveTo(800);
  const near = tokens().slice(800 - 3 * CHUNK, 800 + 3 * CHUNK);
  const rightly = near.filter((token, i) => !!token.closest(".oj-future") === i >= 3 * CHUNK);
  expect(rightly).toHaveLength(near.length); // at once; those out of sight soon after
  await willBeDimmed(all - 800);
  expect(changed).toBeLessThan(4 * CHUNK + 900 / CHUNK);
  $(".oj-follow").click();
  await willBeDimmed(0);
});
