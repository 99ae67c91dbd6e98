// The explanation of a token or an expert: Python's if it answers, else the view's own.

import { afterEach, beforeEach, expect, test } from "vitest";
import "../../../src/live.css";
import widget from "../../../src/live";
import { encode, MockModel, PARTS, Synthetic, settled } from "../../synthetic";

const SHAPE = { layers: 4, experts: 16, k: 2, slots: 20, prompt: 5, expertBytes: 1_000_000 };

let model: MockModel;
let host: HTMLElement;
let close: () => void;

beforeEach(async () => {
  localStorage.setItem("outlier_jupyter.hint", "seen");
  document.body.style.cssText = "margin: 0; --jp-layout-color1: #ffffff";
  host = document.body.appendChild(document.createElement("div"));
  model = new MockModel({ info: { model: "tiny", parts: PARTS } });
  const instance = widget();
  const dispose = instance.initialize({ model });
  const controller = new AbortController();
  const cleanup = instance.render({ model, el: host, signal: controller.signal });
  close = () => {
    cleanup();
    controller.abort();
    dispose();
  };
  model.set("status", "running");
  const run = new Synthetic(SHAPE);
  model.frame(encode(run.next(5, false)));
  for (let i = 0; i < 12; i += 1) model.frame(encode(run.next(1, true, i === 11)));
  await settled(host);
});

afterEach(() => {
  close();
  host.remove();
});

const $ = (selector: string) => host.querySelector<HTMLElement>(selector)!;
const sentences = () =>
  [...host.querySelectorAll(".oj-sentences p")].map((each) => each.textContent);
const title = () => $(".oj-explain h3").textContent;

/** What answers.py says about a token; its texts come from the model, so they may hold anything. */
const TOLD = {
  ms: 20,
  sentences: ["It waited <b>long</b>.", "It was evicted at token 2.", "An optimal cache has it."],
  reads: [
    [0, 3, 1, 5, 2_000_000],
    [2, 7, 8, 12, 3_000_000],
  ],
  waits: [[0, 2, 5]],
  layers: [["0", "3 ms", "expert 3 (evicted at token 2 for layer 1's expert 30)"]],
  notes: ["Disk: fast."],
};

async function showToken(n = 3): Promise<void> {
  host.querySelectorAll<HTMLElement>(".oj-token")[n].click();
  await settled(host);
}

const press = (node: HTMLElement, key: string) =>
  node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));

async function frames(count: number): Promise<void> {
  for (let i = 0; i < count; i += 1) await new Promise(requestAnimationFrame);
}

test("what is opened comes into sight in the panel alone; another token begins at its top", async () => {
  await showToken();
  const notes = Array.from({ length: 40 }, (_, n) => `Note ${n}.`);
  model.set("status", "stop");
  await settled(host);
  const { about } = model.requests[0] as { about: object };
  model.emit("msg:custom", { type: "told", about, words: "all", token: { ...TOLD, notes } });
  await settled(host);
  const [body, rest] = [$(".oj-explain-body"), $("details.oj-explain-rest") as HTMLDetailsElement];
  rest.open = true;
  await settled(host);
  const gap = rest.getBoundingClientRect().top - body.getBoundingClientRect().top;
  expect([Math.abs(gap) < 2, body.scrollTop > 0, scrollY]).toEqual([true, true, 0]);
  await showToken(5);
  expect(body.scrollTop).toBe(0);
});

test("a click explains a token at once: one bar of its time, and sentences from the frames", async () => {
  expect(sentences()).toEqual([
    "Click a word, or a token’s bar in Time, to see what it waited for. ←\u00a0→\u00a0move.",
  ]);
  expect($(".oj-time-bar").hidden && $(".oj-timeline").hidden).toBe(true);
  await showToken();
  expect(title()).toMatch(/^Why token 4 took [\d.]+.ms$/);
  const pieces = [...host.querySelectorAll<HTMLElement>(".oj-time-piece")];
  const widths = pieces.map((piece) => piece.getBoundingClientRect().width);
  const shares = pieces.map((piece) => Number(piece.style.flexGrow));
  const total = shares.reduce((a, b) => a + b, 0);
  const whole = $(".oj-time-bar").clientWidth;
  shares.forEach((share, i) => {
    expect(Math.abs(widths[i] - (share / total) * whole)).toBeLessThan(8);
  });
  expect(pieces.map((piece) => piece.title.split(" ")[0])).toEqual([
    ...["dense", "expert", "lookup", "waiting", "watching"],
  ]);
  expect(sentences()[0]).toMatch(
    /^It waited .+ of .+ \([\d.]+.%\) for \d+.experts?, [\d.]+.MB.* layers?[ .]/,
  );
  expect(sentences()[2]).toMatch(/the median token/);
  expect(sentences()).toHaveLength(3);
});

test("Python is asked once when the run is over, and its answer has a timeline", async () => {
  await showToken();
  const known = sentences();
  expect(model.requests).toEqual([]);
  model.set("status", "stop");
  await settled(host);
  const requests = model.requests as { type: string; about: { step: number } }[];
  expect(requests).toEqual([{ type: "ask", about: { step: 7 } }]);
  expect(sentences()).toEqual(known);
  const { about } = requests[0];
  model.emit("msg:custom", { type: "told", about, words: "all of it", token: TOLD });
  await settled(host);
  expect(sentences()).toEqual(TOLD.sentences);
  expect(host.querySelector(".oj-explain b")).toBeNull();
  expect($(".oj-explain-rest-text").textContent).toBe(
    "Layer 0 waited 3 ms for expert 3 (evicted at token 2 for layer 1's expert 30).\nDisk: fast.",
  );
  const plot = $(".oj-timeline canvas") as HTMLCanvasElement;
  const { left, top, width, height } = plot.getBoundingClientRect();
  const point = (share: number, layer: number) => {
    const clientY = top + ((layer + 0.5) / SHAPE.layers) * (height - 13);
    plot.dispatchEvent(new PointerEvent("pointermove", { clientX: left + share * width, clientY }));
    return $(".oj-timeline-readout").textContent;
  };
  expect(point(0.15, 0)).toBe("layer 0, expert 3: 2.00\u202fMB in 4.00\u202fms");
  expect(point(0.5, 2)).toBe("layer 2, expert 7: 3.00\u202fMB in 4.00\u202fms");
  expect(point(0.9, 2)).toMatch(/^reads by layer/);
  await showToken(4);
  expect(sentences()).not.toEqual(TOLD.sentences);
  await showToken();
  expect(sentences()).toEqual(TOLD.sentences);
  expect(model.requests).toHaveLength(2);
});

test("a pinned expert is explained instead, and Close unpins it", async () => {
  const map = $(".oj-routing canvas.oj-canvas");
  map.focus();
  press(map, "ArrowDown");
  press(map, "Enter");
  await settled(host);
  expect(title()).toBe("Layer 0, expert 0");
  const users = host.querySelectorAll(".oj-token.oj-highlight").length;
  expect(sentences()[0]).toMatch(/^\d+ of \d+.tokens chose it|^No token chose it/);
  const listed = $(".oj-explain-rest-text").textContent?.split("“").length ?? 0;
  expect(listed - 1).toBeGreaterThanOrEqual(users);
  $(".oj-explain button").click();
  await settled(host);
  expect($(".oj-explain button").hidden).toBe(true);
  expect(host.querySelectorAll(".oj-token.oj-highlight")).toHaveLength(0);
});

test("while the playhead moves nothing is asked: Python explains where it comes to rest", async () => {
  model.set("status", "stop");
  await settled(host);
  const slider = $(".oj-slider") as HTMLInputElement;
  for (let step = 5; step < 13; step += 1) {
    slider.value = String(step);
    slider.dispatchEvent(new Event("input"));
    await frames(3); // a user's action is drawn in three
    expect(title()).toContain(`token ${step - 3} `);
  }
  await settled(host);
  expect(model.requests).toEqual([{ type: "ask", about: { step: 12 } }]);
});

test("when the run is over and nothing is selected, the slowest tokens are offered", async () => {
  expect($(".oj-slowest").hidden).toBe(true);
  model.set("status", "stop");
  await settled(host);
  const buttons = [...host.querySelectorAll<HTMLButtonElement>(".oj-slowest button")];
  const times = buttons.map((each) => Number.parseFloat(each.textContent!.split("·")[1]));
  expect(times).toHaveLength(3);
  expect(times).toEqual([...times].sort((a, b) => b - a));
  const name = buttons[0].textContent!.split(" ·")[0];
  buttons[0].click();
  await settled(host);
  expect(title()).toContain(`Why ${name} `);
  expect($(".oj-slowest").hidden).toBe(true);
});

test("E leads to the explanation, and the menu of a token explains it or plays from it", async () => {
  const log = $(".oj-log");
  log.focus();
  press(log, "Enter"); // the last token
  await settled(host);
  expect(title()).toContain("token 13");
  press(log, "e");
  expect(document.activeElement).toBe($(".oj-explain-body"));

  const token = host.querySelectorAll<HTMLElement>(".oj-token")[2];
  const open = () => {
    log.focus();
    token.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
    const at = { bubbles: true, cancelable: true, clientX: 30, clientY: 200 };
    token.dispatchEvent(new MouseEvent("contextmenu", at));
    return [...host.querySelectorAll<HTMLElement>('[role="menuitem"]')];
  };
  const items = open();
  expect(items.map((each) => each.textContent)).toEqual([
    ...["Explain this token", "Play from here", "Show its experts"],
  ]);
  expect(document.activeElement).toBe(items[0]);
  press(items[0], "ArrowUp");
  expect(document.activeElement).toBe(items[2]);
  press(items[2], "Escape");
  expect($(".oj-menu").hidden).toBe(true);
  expect(document.activeElement).toBe(log);
  await settled(host);
  expect(title()).toContain("token 13");

  open()[0].click();
  await settled(host);
  expect(title()).toContain("token 3 ");
  expect(document.activeElement).toBe($(".oj-explain-body"));
  open()[2].click();
  expect(document.activeElement).toBe($(".oj-routing .oj-canvas"));
  open()[1].click();
  await frames(3);
  expect($(".oj-play").textContent).toContain("Pause");
});
