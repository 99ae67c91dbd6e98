// The explanation of a token or an expert: Python's if it answers, else the view's own.

import { afterEach, beforeEach, expect, test } from "vitest";
import "../../../src/live.css";
import widget from "../../../src/live";
import { encode, MockModel, Synthetic, settled } from "../../synthetic";

const SHAPE = { layers: 4, experts: 16, k: 2, slots: 20, prompt: 5, expertBytes: 1_000_000 };

let model: MockModel;
let host: HTMLElement;
let close: () => void;

beforeEach(async () => {
  document.body.style.cssText = "margin: 0; --jp-layout-color1: #ffffff";
  host = document.body.appendChild(document.createElement("div"));
  model = new MockModel({ info: { model: "tiny" } });
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
const explanation = () => $(".oj-detail-text").textContent ?? "";

async function showToken(n = 3): Promise<void> {
  host.querySelectorAll<HTMLElement>(".oj-token")[n].click();
  await settled(host);
}

test("a click explains a token at once, and asks Python once when the run is over", async () => {
  expect(explanation()).toBe("Click a token to see what it waited for. ← → move.");
  await showToken();
  expect($(".oj-explain h3").textContent).toMatch(/^Where the time of token \d+ went$/);
  expect(explanation()).toMatch(/lookups missed/);
  expect(model.sent).toEqual([]);
  model.set("status", "stop");
  await settled(host);
  const requests = model.sent as { type: string; about: { step: number } }[];
  expect(requests.map((each) => each.type)).toEqual(["ask"]);
  expect(requests[0].about.step).toBeGreaterThan(3);
  model.emit("msg:custom", { type: "told", about: requests[0].about, words: "waited <b>long</b>" });
  await settled(host);
  expect(explanation()).toBe("waited <b>long</b>");
  expect(host.querySelector(".oj-explain b")).toBeNull();
  await showToken(4);
  expect(explanation()).not.toBe("waited <b>long</b>");
  await showToken();
  expect(explanation()).toBe("waited <b>long</b>");
  expect(model.sent).toHaveLength(2);
});

test("a pinned expert lists its tokens, and Close unpins it", async () => {
  const map = $(".oj-routing canvas.oj-canvas");
  map.focus();
  map.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
  map.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  await settled(host);
  expect($(".oj-explain h3").textContent).toBe("Tokens of layer 0, expert 0");
  const highlighted = host.querySelectorAll(".oj-token.oj-highlight").length;
  expect(explanation()).toMatch(/^Chosen by \d+.tokens?/);
  expect(explanation().split("“").length - 1).toBeGreaterThanOrEqual(highlighted);
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
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    expect($(".oj-explain h3").textContent).toContain(`token ${step - 3} `);
  }
  await settled(host);
  expect(model.sent).toEqual([{ type: "ask", about: { step: 12 } }]);
});
