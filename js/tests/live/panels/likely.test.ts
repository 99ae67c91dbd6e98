// What the model found likely, and the kinds of tokens, in the text of a finished run.

import { afterEach, beforeEach, expect, test } from "vitest";
import "../../../src/live.css";
import widget from "../../../src/live";
import type { Likely } from "../../../src/live/alternatives";
import { KINDS } from "../../../src/live/columns";
import { encode, MockModel, Synthetic, settled } from "../../synthetic";

const PROMPT = 5;
const SHAPE = { layers: 4, experts: 16, k: 2, slots: 20, prompt: PROMPT, expertBytes: 1_000_000 };
const RECORDED = ["surprise", "token_entropy", "segment", "alternatives"];
const SOMEWHERE = PROMPT + 3;

let model: MockModel;
let run: Synthetic;
let host: HTMLElement;
let close = () => {};

/** A view of a finished run of `n` tokens after the prompt. */
async function open(n: number, info: object = { recorded: RECORDED }): Promise<void> {
  model = new MockModel({ info: { model: "tiny", ...info } });
  run = new Synthetic(SHAPE);
  const instance = widget();
  instance.initialize({ model });
  const controller = new AbortController();
  instance.render({ model, el: host, signal: controller.signal });
  close = () => controller.abort();
  model.set("status", "running");
  model.frame(encode(run.next(PROMPT, false)));
  for (let i = 0; i < n; i += 1) model.frame(encode(run.next(1, true, i === n - 1)));
  model.set("status", "stop");
  await drawn();
}

beforeEach(() => {
  document.body.style.cssText = "margin: 0; --jp-layout-color1: #ffffff";
  host = document.body.appendChild(document.createElement("div"));
});

afterEach(() => {
  close();
  host.remove();
});

const drawn = () => settled(host);
const $ = (selector: string) => host.querySelector<HTMLElement>(selector)!;
const all = (selector: string) => [...host.querySelectorAll<HTMLElement>(selector)];
/** The token that a step produced; the prompt's last step produced the first. */
const token = (step: number) => all(".oj-token")[step - PROMPT + 1];
const bars = () => all(".oj-alternative").filter((bar) => !bar.hidden);
const asked = (name: string) =>
  model.requests.filter((each) => name in ((each as { about?: object }).about ?? {}));

/** Python's answer about the tokens of all steps. */
async function tell(likely: Likely, words = ""): Promise<void> {
  const about = { alternatives: 0 };
  model.emit("msg:custom", { type: "told", about, likely: Array(64).fill(likely), words });
  await drawn();
}

async function tellKinds(names: readonly string[]): Promise<void> {
  const codes = Float32Array.from({ length: 64 }, (_, step) =>
    KINDS.indexOf(names[step - PROMPT + 1] ?? "answer"),
  );
  const about = { column: "segment" };
  model.emit("msg:custom", { type: "told", about, words: "" }, [new DataView(codes.buffer)]);
  await drawn();
}

const LIKELY: Likely = {
  chosen: [7, " river", Math.log(0.25)],
  rank: 2,
  others: [
    [3, " sea", Math.log(0.5)],
    [7, " river", Math.log(0.25)],
    [9, "\n", Math.log(0.125)],
  ],
};

async function hover(step: number): Promise<void> {
  token(step).dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  await drawn();
}

test("hovering a token shows what was likely in its place, as bars with the chosen one marked", async () => {
  await open(12);
  await hover(SOMEWHERE);
  await tell(LIKELY);
  expect(bars().map((bar) => bar.textContent)).toEqual([
    "“\u00a0sea”50\u202f%",
    "“\u00a0river”25\u202f%",
    "“↵”13\u202f%",
  ]);
  expect(bars().map((bar) => bar.style.getPropertyValue("--oj-share"))).toEqual([
    ...["50.0%", "25.0%", "12.5%"],
  ]);
  expect(bars().map((bar) => bar.classList.contains("oj-taken"))).toEqual([false, true, false]);
  expect($(".oj-likely").ariaLabel ?? $(".oj-likely").getAttribute("aria-label")).toContain(
    "token 5",
  );
  const height = $(".oj-likely").offsetHeight;
  await hover(SOMEWHERE + 2);
  expect($(".oj-likely").offsetHeight).toBe(height);
  expect(asked("alternatives").length).toBeLessThanOrEqual(3);
});

test("a token that is not among the likeliest has a bar of its own, and its rank", async () => {
  await open(12);
  await tell({ ...LIKELY, chosen: [1234, " pond", Math.log(0.001)], rank: 1370 });
  expect(bars()).toHaveLength(4);
  expect(bars()[3].textContent).toBe("“\u00a0pond”0.1\u202f% · rank\u202f1,370");
  expect(bars()[3].title).toContain("6.91\u202fnats");
});

test("arrow keys show what was likely in the place of the playhead's token", async () => {
  await open(12);
  const about = { alternatives: 0 };
  const likely = Array.from({ length: 64 }, (_, step) => ({
    ...LIKELY,
    others: [[3, ` at ${step}`, Math.log(0.5)]] as const,
  }));
  model.emit("msg:custom", { type: "told", about, likely });
  const last = PROMPT + 12 - 1;
  for (const at of [last - 1, last - 2]) {
    const pressed = new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true });
    $(".oj-log").dispatchEvent(pressed);
    await drawn();
    expect(bars()[0].textContent).toContain(`at\u00a0${at}”`);
  }
});

test("a click goes on from there with that token; Python says why it cannot", async () => {
  await open(12);
  await tell(LIKELY);
  token(SOMEWHERE).click();
  await drawn();
  bars()[1].click(); // the run's own token
  expect(model.sent.filter((each) => (each as { type: string }).type === "branch")).toEqual([]);
  bars()[0].click();
  await drawn();
  expect(model.sent.at(-1)).toEqual({ type: "branch", token: 5, choose: 3 });
  expect($(".oj-text .oj-readout").textContent).toBe("Going on from token 5…");
  model.emit("msg:custom", { type: "branched", words: "The engine is closed." });
  await drawn();
  expect($(".oj-text .oj-readout").textContent).toBe("The engine is closed.");
});

test("a branch is shown below its run, once", async () => {
  await open(6);
  const branch = new MockModel({ info: { model: "tiny" }, view_id: "v2" });
  const widget_manager = { get_model: async (id: string) => (id === "b1" ? branch : null) };
  Object.assign(model, { widget_manager });
  model.set("branches", ["IPY_MODEL_b1"]);
  model.set("branches", ["IPY_MODEL_b1"]);
  await expect.poll(() => all(".oj-run-view").length).toBe(2);
  expect($(".oj-branch .oj-run-view")).not.toBeNull();
});

test("a page without a kernel shows the bars, and says why a click does nothing", async () => {
  await open(12, { likely: { [SOMEWHERE]: LIKELY }, columns: {} });
  await hover(SOMEWHERE);
  expect(bars()).toHaveLength(3);
  expect(bars()[0].ariaDisabled).toBe("true");
  expect(bars()[0].title).toContain("no kernel");
  bars()[0].click();
  await hover(SOMEWHERE + 1);
  expect(bars()).toHaveLength(0);
  expect($(".oj-likely").getAttribute("aria-label")).toContain("Nothing known");
  expect(model.requests).toEqual([]);
});

test("without recorded alternatives there is no row, and nothing is asked", async () => {
  await open(12, {});
  expect($(".oj-likely").hidden).toBe(true);
  expect(model.requests).toEqual([]);
});

test("thinking has its name where it begins, and so has the answer after it", async () => {
  await open(8);
  const thought = ["template", ...Array(3).fill("thinking"), "template", "template"];
  await tellKinds(thought);
  const begins = () => all(".oj-token").map((each) => each.dataset.ojBegins ?? "");
  expect(begins().filter(Boolean)).toEqual(["thinking", "answer"]);
  expect([begins().indexOf("thinking"), begins().indexOf("answer")]).toEqual([1, thought.length]);
  token(PROMPT).click();
  await drawn();
  expect($(".oj-explain h3").textContent).toMatch(/^Why token 2 took [^ ]* ?ms$/);
  expect($(".oj-text .oj-readout").textContent).toContain("token 2 · thinking · ");
  const select = $(".oj-colour") as HTMLSelectElement;
  select.value = "segment";
  select.dispatchEvent(new Event("change"));
  await drawn();
  expect(all(".oj-kind").map((each) => each.textContent)).toEqual([
    ...["template", "thinking", "answer"],
  ]);
  const colour = (each: Element) => getComputedStyle(each).backgroundColor;
  expect(colour(token(PROMPT))).not.toBe(colour(token(PROMPT + 7)));
  expect(colour(token(PROMPT))).toBe(colour(all(".oj-kind")[1]));
});

test("a text that is only the answer has no names in it", async () => {
  await open(8);
  await tellKinds(["answer"]);
  expect(all("[data-oj-begins]")).toEqual([]);
});

test("a text that was begun before the first token stands before it, and is no token", async () => {
  await open(6);
  const whole = $(".oj-log").textContent!;
  const first = all(".oj-token")[0].textContent!;
  expect(whole.startsWith(first)).toBe(true);
  model.set("info", { model: "tiny", prefilled: 2 });
  await drawn();
  expect($(".oj-log").textContent).toBe(whole);
  expect(all(".oj-token")[0].textContent).toBe(first.slice(2));
});
