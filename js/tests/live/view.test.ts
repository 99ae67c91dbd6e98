import { afterEach, beforeEach, expect, test, vi } from "vitest";
import "../../src/live.css";
import widget from "../../src/live";
import { NO_TOKEN } from "../../src/live/frames";
import { MAX_QUEUED } from "../../src/live/store";
import { encode, MockModel, PARTS, Synthetic, settled } from "../synthetic";

const SHAPE = { layers: 4, experts: 16, k: 2, slots: 20, prompt: 5, expertBytes: 1_000_000 };
const INFO = {
  ...{ model: "tiny", reader: "direct", expert_nbytes: 1_000_000, prompt: "Say <b>hi</b>" },
  parts: PARTS,
};

let model: MockModel;
let run: Synthetic;
let host: HTMLElement;
let close: () => void;
let renderAgain: () => void;

/** Made as anywidget makes it: one instance per model, `render` once per view. */
function open(traits: Record<string, unknown> = {}): void {
  model = new MockModel({ info: INFO, ...traits });
  const instance = widget();
  const dispose = instance.initialize({ model });
  const controller = new AbortController();
  const render = () => instance.render({ model, el: host, signal: controller.signal });
  const cleanup = render();
  renderAgain = render;
  if (!traits.status) model.set("status", "running");
  close = () => {
    cleanup();
    controller.abort();
    dispose();
  };
}

beforeEach(() => {
  document.body.style.cssText = "margin: 0; --jp-layout-color1: #ffffff";
  host = document.body.appendChild(document.createElement("div"));
  run = new Synthetic(SHAPE);
});

afterEach(() => {
  close();
  host.remove();
});

const push = (n: number, decode: boolean, final = false) =>
  model.frame(encode(run.next(n, decode, final)));
const $ = (selector: string) => host.querySelector<HTMLElement>(selector)!;
const text = (selector: string) => $(selector).textContent ?? "";
/** Wait until the view has drawn everything. */
const drawn = () => settled(host);

/** The canvases that show the selection; a map's cells have a canvas of their own. */
const canvases = () => [...host.querySelectorAll<HTMLCanvasElement>(".oj-canvas")];

/** How many different colours a canvas shows. */
function colours(canvas: HTMLCanvasElement): number {
  const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}

test("the view appears at once and says what it waits for", async () => {
  open({ status: "waiting" });
  await drawn();
  expect(text(".oj-model")).toBe("tiny");
  expect(text(".oj-status")).toBe("Waiting");
  expect(text(".oj-log")).toContain("Waiting");
  expect(host.querySelectorAll(".oj-panel h3")).toHaveLength(6);
});

test("frames become text, numbers and pictures", async () => {
  open();
  push(5, false);
  for (let i = 0; i < 12; i += 1) push(1, true);
  await drawn();
  expect(text(".oj-log")).toContain("The river keeps its own time.");
  expect(text(".oj-status")).toBe("Generating");
  expect(text(".oj-numbers")).toMatch(/hit rate \(decode\) \d+/);
  expect(text(".oj-numbers")).toMatch(/time to first token \d.*ms/);
  expect(text(".oj-more")).toMatch(/hit rate \(prefill\) \d+/);
  expect(text(".oj-residency .oj-subtitle")).toMatch(/^20 of 20.slots$/);
  const drawnOn = [...host.querySelectorAll("canvas")].filter((canvas) => canvas.offsetParent);
  for (const canvas of drawnOn) expect(colours(canvas)).toBeGreaterThan(1);
  expect(model.sent).toEqual([]);
});

test("what the model wrote is text, whatever it looks like", async () => {
  open();
  const frame = run.next(1, false);
  model.frame(encode({ ...frame, text: '<img src=x onerror="window.hit=1"> & <b>bold</b>' }));
  await drawn();
  expect(text(".oj-log")).toContain('<img src=x onerror="window.hit=1"> & <b>bold</b>');
  expect(text(".oj-prompt")).toBe("Say <b>hi</b>");
  expect(host.querySelector("img, b")).toBeNull();
});

test("after a lost frame one snapshot is requested, and it repairs the view", async () => {
  open();
  push(5, false);
  run.next(1, true);
  push(1, true);
  push(1, true);
  await drawn();
  expect(model.sent).toEqual([{ type: "resync" }]);
  expect(text(".oj-note")).toContain("lost");
  const whole = { ...new Synthetic(SHAPE).next(9, true), seq: run.seq, since: 0, snapshot: true };
  model.frame(encode(whole));
  push(1, true);
  await drawn();
  expect($(".oj-note").hidden).toBe(true);
  expect(model.sent).toHaveLength(1);
});

test("a view made late, and one made twice, show the whole run", async () => {
  open();
  push(5, false);
  push(1, true);
  await drawn();
  const first = text(".oj-log");
  renderAgain();
  host.lastElementChild!.scrollIntoView();
  await drawn();
  const logs = [...host.querySelectorAll(".oj-log")].map((log) => log.textContent);
  expect(logs).toEqual([first, first]);
});

test("after a reload the snapshot is shown, and the rest is requested", async () => {
  const frame = { ...run.next(6, true), snapshot: true, since: 0, text: "so far" };
  open({ status: "running", snapshot: new DataView(encode(frame).buffer) });
  await drawn();
  expect(text(".oj-log")).toContain("so far");
  expect(model.sent).toEqual([{ type: "resync" }]);
});

test("a finished run is shown from its snapshot alone", async () => {
  const frame = { ...run.next(6, true, true), snapshot: true, since: 0 };
  open({ status: "length", snapshot: new DataView(encode(frame).buffer) });
  await drawn();
  expect(text(".oj-status")).toBe("Done, token limit reached");
  expect($(".oj-stop").hidden).toBe(true);
  expect(model.sent).toEqual([]);
});

test("a run that is over says while it is replayed that it is", async () => {
  const frame = { ...run.next(40, true, true), snapshot: true, since: 0 };
  open({ status: "length", snapshot: new DataView(encode(frame).buffer) });
  await drawn();
  const status = () => text(".oj-status");
  expect(status()).toBe("Done, token limit reached");
  $(".oj-play").click();
  await expect.poll(status, { interval: 10 }).toBe("Done, token limit reached · replaying");
  await expect.poll(status, { timeout: 20_000 }).toBe("Done, token limit reached");
});

test("fewer reads than misses are explained", async () => {
  const frame = { ...run.next(6, true, true), snapshot: true, since: 0 };
  frame.totals = { ...frame.totals, lookups: 100, hits: 60, reads: 30 };
  open({ status: "length", snapshot: new DataView(encode(frame).buffer) });
  await drawn();
  const titles = [...host.querySelectorAll(".oj-number .oj-value")].map(
    (each) => (each as HTMLElement).title,
  );
  expect(
    titles.some((title) => /^30.reads for 40 misses: tokens read together share one$/.test(title)),
  ).toBe(true);
});

test("the last snapshot is taken with its status", async () => {
  open();
  push(5, false);
  const frame = { ...run.next(3, true, true), since: 0, snapshot: true };
  const whole = { ...frame, text: "all of it", textStart: 0 };
  model.set("snapshot", new DataView(encode(whole).buffer));
  model.set("status", "interrupted");
  await drawn();
  expect(text(".oj-log")).toBe("all of it");
  expect(text(".oj-status")).toBe("Stopped early");
});

test("nothing is drawn out of sight, and everything when the view comes back", async () => {
  open();
  push(5, false);
  await drawn();
  host.style.display = "none";
  await drawn();
  const raf = vi.spyOn(window, "requestAnimationFrame");
  for (let i = 0; i < 3 * MAX_QUEUED; i += 1) push(1, true);
  await new Promise((resolve) => setTimeout(resolve, 160));
  expect(raf).not.toHaveBeenCalled();
  raf.mockRestore();
  host.style.display = "";
  await drawn();
  expect(text(".oj-log").length).toBeGreaterThan(100);
});

test("pointing at a cell shows its exact count", async () => {
  open();
  push(5, false);
  await drawn();
  const canvas = $(".oj-routing canvas");
  const box = canvas.getBoundingClientRect();
  const at = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
  canvas.dispatchEvent(new PointerEvent("pointermove", at));
  await drawn();
  expect(text(".oj-routing .oj-readout")).toMatch(
    /^layer \d+ · expert \d+ · \d+.times? so far, prompt included \(\d+(\.\d)?.% of the layer\)$/,
  );
});

test("the keyboard reaches cells and tokens, and the notebook receives no key", async () => {
  open();
  push(5, false);
  for (let i = 0; i < 5; i += 1) push(1, true);
  await drawn();
  const heard = vi.fn();
  host.addEventListener("keydown", heard);
  const press = (selector: string, key: string) =>
    $(selector).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  press(".oj-residency canvas", "ArrowRight");
  press(".oj-latency canvas", "End");
  press(".oj-latency canvas", "ArrowLeft");
  await drawn();
  expect(text(".oj-residency .oj-readout")).toMatch(/^layer 0, expert 0: (in RAM|on SSD)/);
  expect(text(".oj-latency .oj-readout")).toMatch(/^token 5 · /);
  expect(heard).not.toHaveBeenCalled();
  expect($(".oj-root").getAttribute("data-lm-suppress-shortcuts")).toBe("true");
  // A notebook may bind keys to the focused element, so that must suppress shortcuts too.
  $(".oj-slider").focus();
  expect($(".oj-slider").getAttribute("data-lm-suppress-shortcuts")).toBe("true");
});

test("keys with Ctrl, Cmd or Alt reach the notebook's shortcuts, plain keys do not", async () => {
  open();
  push(5, false);
  for (let i = 0; i < 5; i += 1) push(1, true);
  await drawn();
  const heard: string[] = [];
  const suppressed = (node: Element) => node.closest("[data-lm-suppress-shortcuts]") !== null;
  host.addEventListener("keydown", (event) => {
    heard.push(`${event.key} ${event.defaultPrevented} ${suppressed(event.target as Element)}`);
  });
  const press = (node: HTMLElement, key: string, modifiers = {}) => {
    node.focus();
    const init = { key, bubbles: true, cancelable: true, ...modifiers };
    node.dispatchEvent(new KeyboardEvent("keydown", init));
  };
  for (const node of [".oj-root", ".oj-log", ".oj-slider", ".oj-routing canvas"].map($)) {
    press(node, "s", { ctrlKey: true });
    press(node, "Enter", { metaKey: true });
    press(node, "ArrowRight", { altKey: true });
    press(node, "x");
    press(node, "A", { shiftKey: true });
  }
  const wanted = ["s false false", "Enter false false", "ArrowRight false false"];
  const each = [...wanted, "x false true", "A false true"];
  expect(heard).toEqual(Array.from({ length: 4 }, () => each).flat());
});

/** Point at the middle of an element, then perhaps click it. */
function point(node: Element, click = false): void {
  const box = node.getBoundingClientRect();
  const at = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
  for (const type of ["pointerover", "pointermove"]) {
    node.dispatchEvent(new PointerEvent(type, { ...at, bubbles: true }));
  }
  if (click) node.dispatchEvent(new MouseEvent("click", { ...at, bubbles: true }));
}

test("a hovered token is described in all panels, and a click moves the playhead to it", async () => {
  open();
  push(5, false);
  for (let i = 0; i < 8; i += 1) push(1, true);
  await drawn();
  const maps = () => canvases().filter((canvas) => canvas.closest(".oj-routing, .oj-residency"));
  const before = maps().map((canvas) => canvas.toDataURL());
  const token = host.querySelectorAll(".oj-token")[3];
  point(token);
  await drawn();
  for (const panel of [".oj-text", ".oj-residency", ".oj-latency", ".oj-routing"]) {
    expect(text(`${panel} .oj-readout`)).toMatch(/^token 4 · /);
  }
  expect(text(".oj-text .oj-readout")).toMatch(/“.*keeps” · \d.*ms · \d of 8 missed/);
  expect(text(".oj-latency .oj-readout")).toMatch(/ · p50 .+ · p95 .+ · max .+ms · \d+.reads?, /);
  // The last canvas of the residency panel is a plot: its overlay marks the token.
  for (const at of [0, 1]) expect(maps()[at].toDataURL()).not.toBe(before[at]);
  expect(host.querySelectorAll(".oj-preview:not([hidden])")).toHaveLength(4);
  expect(host.querySelector(".oj-playhead:not([hidden])")).toBeNull();
  expect(text(".oj-where")).toBe("live");
  point(token, true);
  $(".oj-log").dispatchEvent(new PointerEvent("pointerleave"));
  await drawn();
  expect(text(".oj-where")).toBe("token 4 of 9");
  expect(token.classList).toContain("oj-at");
  expect(host.querySelectorAll(".oj-playhead:not([hidden])")).toHaveLength(4);
  expect(text(".oj-latency .oj-readout")).toMatch(/^token 4 · /);
  point(host.querySelectorAll(".oj-token")[6]);
  await drawn();
  expect(text(".oj-latency .oj-readout")).toMatch(/^token 7 · /);
  expect(text(".oj-where")).toBe("token 4 of 9");
  $(".oj-log").dispatchEvent(new PointerEvent("pointerleave"));
  await drawn();
  expect(text(".oj-latency .oj-readout")).toMatch(/^token 4 · /);
  $(".oj-log").dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  await drawn();
  expect(host.querySelector(".oj-on, .oj-at")).toBeNull();
  expect(text(".oj-where")).toBe("live");
});

test("a hovered expert highlights the tokens that used it", async () => {
  open();
  push(5, false);
  const frames = Array.from({ length: 8 }, () => run.next(1, true));
  for (const frame of frames) model.frame(encode(frame));
  await drawn();
  const expert = frames[2].expertsOf[0];
  const key = (name: string) =>
    $(".oj-routing canvas").dispatchEvent(
      new KeyboardEvent("keydown", { key: name, bubbles: true }),
    );
  for (let i = 0; i <= expert; i += 1) key("ArrowRight");
  await drawn();
  expect(text(".oj-routing .oj-readout")).toContain(`layer 0 · expert ${expert} ·`);
  const tokens = [...host.querySelectorAll(".oj-token")].slice(1);
  const used = frames.map((frame) => frame.expertsOf.subarray(0, SHAPE.k).includes(expert));
  expect(tokens.map((token) => token.classList.contains("oj-highlight"))).toEqual(used);
});

test("the marks of an expert's tokens go when it is no longer hovered", async () => {
  open();
  push(5, false);
  for (let i = 0; i < 12; i += 1) push(1, true);
  model.set("status", "stop");
  await drawn();
  const plots = () => canvases().map((canvas) => canvas.toDataURL());
  const before = plots();
  const map = $(".oj-routing canvas");
  point(map);
  await drawn();
  expect(plots().filter((each, n) => each !== before[n]).length).toBeGreaterThan(4);
  map.dispatchEvent(new PointerEvent("pointerleave"));
  await drawn();
  expect(plots()).toEqual(before);
});

test("left of a map, the whole layer is hovered", async () => {
  open();
  push(5, false);
  push(1, true);
  await drawn();
  const box = $(".oj-routing canvas").getBoundingClientRect();
  const at = { clientX: box.left + 20, clientY: box.top + 10 };
  $(".oj-routing canvas").dispatchEvent(new PointerEvent("pointermove", at));
  await drawn();
  expect(text(".oj-routing .oj-readout")).toMatch(/^layer 0 · \d+ of 16.experts chosen/);
  expect(text(".oj-residency .oj-readout")).toMatch(/^layer 0: \d+ of 16.experts in RAM/);
});

test("a token's time has the parts that Python names, and no others", async () => {
  open();
  const { steps, ...frame } = run.next(1, true);
  steps.tokenMs[0] = 10;
  [6, 2.5, 0.5, 1, 0, 0].forEach((ms, n) => {
    steps.parts[PARTS[n].column][0] = ms;
  });
  model.frame(encode({ ...frame, steps }));
  await drawn();
  expect(text(".oj-time .oj-readout")).toMatch(/^token 1 · 10.0.ms · dense work 6.00 \(60.%\)/);
  expect(text(".oj-time .oj-readout")).toContain("waiting 1.00");
  const legend = [...host.querySelectorAll<HTMLElement>(".oj-time .oj-legend-row > *")];
  const named = legend.map((item) => [item.textContent, item.title]);
  expect(named).toEqual(PARTS.slice(0, 4).map(({ name, means }) => [name, means]));
  expect(colours($(".oj-time canvas") as HTMLCanvasElement)).toBeGreaterThan(5);
  $(".oj-time .oj-as-table").click();
  await drawn();
  const cells = [...host.querySelectorAll(".oj-time td")].map((cell) => cell.textContent);
  expect(cells).toEqual(["token 1", "10.0", "6.00", "2.50", "0.500", "1.00", "0", "0"]);
});

test("a folded panel shows only its title, and nothing is drawn in it", async () => {
  open();
  push(5, false);
  push(1, true);
  await drawn();
  const button = $(".oj-routing .oj-fold");
  const tall = $(".oj-routing").clientHeight;
  button.click();
  await drawn();
  expect(button.getAttribute("aria-expanded")).toBe("false");
  expect($(".oj-routing").clientHeight).toBeLessThan(60);
  expect($(".oj-routing .oj-plots").clientHeight).toBe(0);
  button.click();
  push(1, true);
  await drawn();
  expect($(".oj-routing").clientHeight).toBe(tall);
  expect(colours($(".oj-routing canvas") as HTMLCanvasElement)).toBeGreaterThan(2);
});

test("the run can be scrubbed back and followed again", async () => {
  open();
  push(5, false);
  for (let i = 0; i < 12; i += 1) push(1, true);
  await drawn();
  expect(text(".oj-where")).toBe("live");
  const now = text(".oj-routing .oj-readout");
  const slider = $(".oj-slider") as HTMLInputElement;
  slider.value = "6";
  slider.dispatchEvent(new Event("input"));
  await drawn();
  expect(text(".oj-where")).toBe("token 3 of 13");
  expect(text(".oj-routing .oj-readout")).not.toBe(now);
  expect(text(".oj-text .oj-readout")).toMatch(/^token 3 · /);
  const later = [...host.querySelectorAll(".oj-token")].map((t) =>
    t.classList.contains("oj-future"),
  );
  expect(later).toEqual(Array.from({ length: 13 }, (_, i) => i > 2));
  push(1, true);
  await drawn();
  expect(text(".oj-where")).toBe("token 3 of 14");
  slider.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  await drawn();
  expect(text(".oj-where")).toBe("token 4 of 14");
  expect(slider.value).toBe("7");
  $(".oj-follow").click();
  await drawn();
  expect(text(".oj-where")).toBe("live");
  expect(host.querySelector(".oj-future")).toBeNull();
});

test("the arrow keys move the playhead from anywhere, except where a control needs them", async () => {
  open();
  push(5, false);
  for (let i = 0; i < 20; i += 1) push(1, true);
  await drawn();
  const press = async (selector: string, key: string, shiftKey = false) => {
    const event = new KeyboardEvent("keydown", { key, shiftKey, bubbles: true, cancelable: true });
    $(selector).dispatchEvent(event);
    await drawn();
    return text(".oj-where");
  };
  expect($(".oj-root").tabIndex).toBe(-1);
  expect(await press(".oj-root", "ArrowLeft")).toBe("token 20 of 21");
  expect(await press(".oj-log", "ArrowLeft")).toBe("token 19 of 21");
  expect(await press(".oj-time canvas", "ArrowLeft", true)).toBe("token 9 of 21");
  expect(await press(".oj-explain", "ArrowRight")).toBe("token 10 of 21");
  expect(await press(".oj-speed", "ArrowRight")).toBe("token 10 of 21");
  expect(await press(".oj-routing canvas", "ArrowRight")).toBe("token 10 of 21");
  expect(await press(".oj-latency canvas", "Home")).toBe("token 1 of 21");
  expect(await press(".oj-play", "Escape")).toBe("live");
  expect(text(".oj-routing .oj-readout")).toMatch(/so far, prompt included$/);
  // Enter shows the token under the pointer, and else the last.
  expect(await press(".oj-log", "Enter")).toBe("token 21 of 21");
});

test("the map shows the experts after the selected token", async () => {
  open();
  push(5, false);
  for (let i = 0; i < 12; i += 1) push(1, true);
  await drawn();
  const now = text(".oj-residency .oj-subtitle");
  const map = host.querySelector<HTMLCanvasElement>(".oj-residency .oj-bitmap")!;
  const before = map.toDataURL();
  host.querySelectorAll<HTMLElement>(".oj-token")[3].click();
  await drawn();
  expect(text(".oj-residency .oj-subtitle")).toMatch(/^\d+ of 20.slots$/);
  expect(map.toDataURL()).not.toBe(before);
  $(".oj-log").dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  await drawn();
  expect(text(".oj-residency .oj-subtitle")).toBe(now);
});

test("a run with a pace is played at it while it is computed, and the header says both", async () => {
  open({ info: { ...INFO, pace: 5 } });
  push(5, false);
  push(1, true);
  await drawn();
  for (let i = 0; i < 30; i += 1) push(1, true);
  expect(text(".oj-where")).toMatch(/^token [12] of 2$/);
  expect(text(".oj-pace")).toMatch(/^shown at 5 tokens\/s, computed at \d+.*$/);
  model.set("status", "stop");
  await vi.waitFor(() => expect(text(".oj-where")).toMatch(/^token [345] of 32$/));
  expect(text(".oj-speed option:checked")).toBe("5 tokens/s");
  expect(text(".oj-play")).toContain("Pause");
  $(".oj-follow").click();
  await drawn();
  expect([text(".oj-where"), $(".oj-pace").hidden]).toEqual(["the end", true]);
});

test("while the run is played, later tokens are out of sight; paused, they are dimmed", async () => {
  open({ info: { ...INFO, pace: 0.5 } });
  push(5, false);
  for (let i = 0; i < 8; i += 1) push(1, true);
  model.set("status", "stop");
  await drawn();
  const seen = () =>
    [...host.querySelectorAll(".oj-token")].map((token) => getComputedStyle(token).visibility);
  expect(text(".oj-where")).toBe("token 1 of 9");
  expect(seen()).toEqual(["visible", ...new Array(8).fill("hidden")]);
  $(".oj-play").click(); // pauses
  await drawn();
  expect(seen()).toEqual(new Array(9).fill("visible"));
  expect(host.querySelectorAll(".oj-future")).toHaveLength(8);
  $(".oj-follow").click();
  await drawn();
  expect(host.querySelectorAll(".oj-spark")).toHaveLength(3);
});

test("the further numbers close on Escape, on a click elsewhere, and with a chosen token", async () => {
  open();
  push(5, false);
  for (let i = 0; i < 8; i += 1) push(1, true);
  await drawn();
  const more = $(".oj-more") as HTMLDetailsElement;
  const press = (node: HTMLElement, key: string) =>
    node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const choose = async () => {
    press($(".oj-root"), "ArrowLeft");
    await drawn();
  };
  const down = (node: HTMLElement) =>
    node.dispatchEvent(new PointerEvent("pointerdown", { bubbles: true, composed: true }));
  for (const close of [
    () => press($(".oj-more summary"), "Escape"),
    () => down(document.body),
    () => down($(".oj-log")),
    choose,
  ]) {
    more.open = true;
    down($(".oj-more-numbers"));
    expect(more.open).toBe(true);
    await close();
    expect(more.open).toBe(false);
  }
});

test("a run that ended unseen offers to play, until it has been played", async () => {
  const frame = { ...run.next(30, true, true), snapshot: true, since: 0 };
  open({ status: "stop", snapshot: new DataView(encode(frame).buffer) });
  await drawn();
  expect($(".oj-play").classList).toContain("oj-offered");
  $(".oj-play").click();
  await drawn();
  expect($(".oj-play").classList).not.toContain("oj-offered");
  $(".oj-follow").click();
  await drawn();
  expect($(".oj-play").classList).not.toContain("oj-offered");
});

test("a run that was watched does not offer to play", async () => {
  open();
  push(5, false);
  await drawn();
  for (let i = 0; i < 12; i += 1) push(1, true, i === 11);
  model.set("status", "stop");
  await drawn();
  expect($(".oj-play").classList).not.toContain("oj-offered");
});

test("the text scrolls to the token shown, and follows the run", async () => {
  let added = 0;
  const longer = (at: number) => at + added;
  open();
  push(5, false);
  for (let i = 0; i < 400; i += 1) {
    const frame = run.next(1, true);
    frame.steps.textEnd[0] = longer(frame.textStart) + frame.text.length + 1;
    // A paragraph each: most of them are out of sight.
    const changed = { text: `${frame.text}\n`, textStart: longer(frame.textStart) };
    model.frame(encode({ ...frame, ...changed }));
    added += 1;
  }
  await drawn();
  const log = $(".oj-log");
  const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  expect(atEnd()).toBe(true);
  const slider = $(".oj-slider") as HTMLInputElement;
  const inSight = (token: number) => {
    const box = host.querySelectorAll(".oj-token")[token].getBoundingClientRect();
    const view = log.getBoundingClientRect();
    return box.top >= view.top - 1 && box.bottom <= view.bottom + 1;
  };
  for (const step of [10, 390, 200, 4]) {
    slider.value = String(step);
    slider.dispatchEvent(new Event("input"));
    await drawn();
    expect(inSight(step - 4)).toBe(true);
  }
  $(".oj-follow").click();
  await drawn();
  expect(atEnd()).toBe(true);
  push(1, true);
  await drawn();
  expect(atEnd()).toBe(true);
  slider.value = "10";
  slider.dispatchEvent(new Event("input"));
  await drawn();
  $(".oj-play").click();
  const speed = $(".oj-speed") as HTMLSelectElement;
  speed.value = "16";
  speed.dispatchEvent(new Event("change"));
  await vi.waitFor(() => expect(text(".oj-where")).toBe("live"), { timeout: 9_000 });
  await drawn();
  expect(atEnd()).toBe(true);
});

test("while a prompt is read, its progress and the time left are shown", async () => {
  open();
  const frame = run.next(5, false);
  const totals = { ...frame.totals, elapsedNs: 4e9 };
  model.frame(encode({ ...frame, totals, text: "", promptTokens: 20, firstToken: NO_TOKEN }));
  await drawn();
  expect(text(".oj-where")).toBe("prompt: 5 of 20\u202ftokens · about 12\u202fs left");
  expect(($(".oj-progress") as HTMLProgressElement).value).toBe(5);
  expect($(".oj-controls").hidden).toBe(true);
  push(1, true);
  await drawn();
  expect($(".oj-progress").hidden).toBe(true);
  expect($(".oj-controls").hidden).toBe(false);
});

test("each panel has a table in place of its plots", async () => {
  open();
  push(5, false);
  push(1, true);
  await drawn();
  for (const button of host.querySelectorAll<HTMLElement>(".oj-as-table")) button.click();
  await drawn();
  const tables = [...host.querySelectorAll("table")];
  expect(tables).toHaveLength(5);
  for (const table of tables) {
    expect(table.querySelectorAll("th").length).toBeGreaterThan(2);
    expect(table.querySelectorAll("td").length).toBeGreaterThan(2);
  }
  expect($(".oj-routing .oj-plots").hidden).toBe(true);
});

test("a token without reads is said to have none", async () => {
  open();
  const frame = run.next(1, true);
  frame.steps.reads[0] = 0;
  frame.steps.nbytes[0] = 0;
  frame.steps.p50[0] = Number.NaN;
  model.frame(encode(frame));
  await drawn();
  expect(text(".oj-latency .oj-readout")).toBe("token 1 · no reads");
});

test("Stop sends a message, and says how to interrupt if that is not enough", async () => {
  open();
  push(5, false);
  await drawn();
  $(".oj-stop").click();
  await drawn();
  expect(model.sent).toEqual([{ type: "stop" }]);
  expect(text(".oj-note")).toContain("Kernel → Interrupt");
});

test("the view says that the kernel is gone", async () => {
  open();
  push(5, false);
  model.emit("comm_live_update");
  await drawn();
  expect(text(".oj-status")).toBe("Disconnected");
  expect($(".oj-stop").hidden).toBe(true);
  expect(text(".oj-note")).toContain("Kernel disconnected. Run the cell again to continue.");
});

test("machines stand side by side, each with its residency and its reads; without any there are none", async () => {
  open();
  push(5, false);
  for (let i = 0; i < 8; i += 1) push(1, true);
  await drawn();
  expect($(".oj-machines").hidden).toBe(true);
  const { layers, experts } = SHAPE;
  // Of each layer the first quarter is the first machine's.
  const owners = Array.from({ length: layers * experts }, (_, i) =>
    (i % experts) * 4 < experts ? 0 : 1,
  );
  const course = [1, 2, null, 4];
  const ranks = [
    { name: "rank 0 (a)", words: "3 hits", ms: course },
    { name: "rank 1 (b)", words: "5 hits", ms: course },
  ];
  model.set("info", { ...INFO, ranks, owners: btoa(String.fromCharCode(...owners)) });
  await drawn();
  const machines = [...host.querySelectorAll(".oj-machine")];
  expect(machines.map((each) => each.textContent)).toEqual([
    "rank 0 (a)3 hits",
    "rank 1 (b)5 hits",
  ]);
  const canvas = (at: number, name: string) =>
    machines[at].querySelector<HTMLCanvasElement>(`.oj-${name}`)!;
  expect([canvas(0, "bitmap").width, canvas(1, "bitmap").width]).toEqual([4, 12]);
  // Together they show each expert as the residency map does.
  const whole = host.querySelector<HTMLCanvasElement>(".oj-residency .oj-bitmap")!;
  expect([whole.width, whole.height]).toEqual([experts, layers]);
  const row = (each: HTMLCanvasElement, layer: number) => [
    ...each.getContext("2d")!.getImageData(0, layer, each.width, 1).data,
  ];
  for (let layer = 0; layer < layers; layer += 1) {
    const parts = [0, 1].flatMap((rank) => row(canvas(rank, "bitmap"), layer));
    expect(parts).toEqual(row(whole, layer));
  }
  expect(colours(canvas(0, "spark"))).toBeGreaterThan(1);
});

test("the view says that the output is changed", async () => {
  open({ info: { ...INFO, changed_output: "top_k=4 instead of 8" } });
  await drawn();
  expect(text(".oj-badge")).toContain("top_k=4 instead of 8");
  expect($(".oj-badge").hidden).toBe(false);
});

test("frames of another version are reported, not decoded", async () => {
  open();
  const bytes = encode(run.next(5, false));
  bytes[4] = 9;
  model.frame(bytes);
  await drawn();
  expect(text(".oj-note")).toContain("version 9 was seen");
});

test("the theme follows the page", async () => {
  open();
  push(5, false);
  await drawn();
  expect($(".oj-root").dataset.ojTheme).toBe("light");
  document.body.style.setProperty("--jp-layout-color1", "#111111");
  await drawn();
  expect($(".oj-root").dataset.ojTheme).toBe("dark");
});

test("it fits any width without scrolling sideways", async () => {
  open({ info: { ...INFO, changed_output: "top_k=4 instead of 8" } });
  push(5, false);
  for (let i = 0; i < 30; i += 1) push(1, true);
  for (const width of [400, 599, 600, 900, 999, 1000, 1399, 1400, 2000]) {
    host.style.width = `${width}px`;
    await drawn();
    const root = $(".oj-root");
    expect(root.scrollWidth).toBeLessThanOrEqual(width);
    for (const canvas of host.querySelectorAll<HTMLElement>(".oj-plot:not([hidden]) canvas")) {
      expect(canvas.getBoundingClientRect().width).toBeGreaterThan(100);
    }
  }
});

test("closing leaves no listener behind", async () => {
  open();
  push(5, false);
  await drawn();
  close();
  expect(model.listeners).toBe(0);
  expect(host.children).toHaveLength(0);
});
