// One moment in all parts of the view: the tables, the likely tokens and the text show the same token.

import { afterEach, beforeEach, expect, test } from "vitest";
import "../../src/live.css";
import widget from "../../src/live";
import { tokenSentences } from "../../src/live/explain-words";
import { RunState } from "../../src/live/state";
import { encode, MockModel, PARTS, Synthetic, settled } from "../synthetic";

const PROMPT = 5;
const SHAPE = { layers: 4, experts: 16, k: 2, slots: 20, prompt: PROMPT, expertBytes: 1_000_000 };

let model: MockModel;
let host: HTMLElement;
let close = () => {};

/** A view of a finished run of `n` tokens after the prompt; each of them ends a line if `lines`. */
async function open(n: number, lines = false): Promise<void> {
  const info = { model: "tiny", parts: PARTS, recorded: ["alternatives"] };
  model = new MockModel({ info });
  const run = new Synthetic(SHAPE);
  const instance = widget();
  instance.initialize({ model });
  const controller = new AbortController();
  instance.render({ model, el: host, signal: controller.signal });
  close = () => controller.abort();
  model.set("status", "running");
  model.frame(encode(run.next(PROMPT, false)));
  for (let i = 0; i < n; i += 1) {
    const frame = run.next(1, true, i === n - 1);
    if (lines) frame.text = frame.text.replace(/.$/, "\n");
    model.frame(encode(frame));
  }
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

/** Take the view out of the page and put it back, as a notebook does with a cell far away. */
async function away(): Promise<void> {
  host.remove();
  await new Promise((resolve) => setTimeout(resolve, 100));
  document.body.append(host);
}

const drawn = () => settled(host);
const $ = (selector: string) => host.querySelector<HTMLElement>(selector)!;
const token = (number: number) => host.querySelectorAll<HTMLElement>(".oj-token")[number - 1];
const point = (type: string, node: HTMLElement) =>
  node.dispatchEvent(new PointerEvent(type, { bubbles: type === "pointerover" }));
const press = (key: string) =>
  $(".oj-log").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));

test("at the end the likely tokens are the last token's, whatever was hovered or played before", async () => {
  await open(12);
  const place = () => $(".oj-likely").getAttribute("aria-label");
  point("pointerover", token(4));
  await drawn();
  expect(place()).toContain("token 4");
  point("pointerleave", $(".oj-log"));
  await drawn();
  expect(place()).toContain("token 13");
  token(6).click();
  await drawn();
  expect(place()).toContain("token 6");
  $(".oj-follow").click();
  await drawn();
  expect(place()).toContain("token 13");
});

test("every table of tokens ends at the token shown", async () => {
  await open(12);
  const names = ["text", "latency", "time"];
  for (const name of names) $(`.oj-${name} .oj-as-table`).click();
  await drawn();
  const first = (name: string) => $(`.oj-${name} tbody td`).textContent;
  expect(names.map(first)).toEqual(Array(3).fill("token 13"));
  const caption = $(".oj-text caption").textContent;
  expect(caption).toBe("The last 20 tokens, newest first");
  press("ArrowLeft");
  press("ArrowLeft");
  await drawn();
  press("ArrowLeft"); // so soon that the table waits
  await expect.poll(() => names.map(first), { timeout: 5000 }).toEqual(Array(3).fill("token 10"));
  expect($(".oj-time caption").textContent).toBe("The last 20 tokens up to token 10, newest first");
});

test("a text that ended while it was out of sight shows its end", async () => {
  await open(40, true);
  const log = $(".oj-log");
  const gap = () => log.scrollHeight - log.scrollTop - log.clientHeight;
  token(3).click();
  await drawn();
  expect(gap()).toBeGreaterThan(100);
  host.style.cssText = "height: 300px; overflow: auto"; // a notebook's page
  host.scrollTop = host.scrollHeight;
  await drawn();
  $(".oj-follow").click();
  await drawn();
  host.scrollTop = 0;
  await expect.poll(gap, { timeout: 5000 }).toBeLessThan(24);
  await away();
  await expect.poll(gap, { timeout: 5000 }).toBeLessThan(24);
  token(20).click();
  await drawn();
  const inSight = () => {
    const [box, view] = [token(20).getBoundingClientRect(), log.getBoundingClientRect()];
    return box.top > view.top - 1 && box.bottom < view.bottom + 1;
  };
  expect(inSight()).toBe(true);
  await away();
  await expect.poll(inSight, { timeout: 5000 }).toBe(true);
});

test("a reader who scrolled up in a text stays there when the page scrolls", async () => {
  await open(40, true);
  const log = $(".oj-log");
  log.scrollTop = 10;
  await drawn();
  host.style.cssText = "height: 300px; overflow: auto";
  host.scrollTop = host.scrollHeight;
  await drawn();
  host.scrollTop = 0;
  await drawn();
  expect(log.scrollTop).toBe(10);
});

test("'most' speaks of misses where the times of the layers are not known", () => {
  const [state, run] = [new RunState(), new Synthetic(SHAPE)];
  state.apply(run.next(PROMPT, false));
  for (let i = 0; i < 30; i += 1) state.apply(run.next(1, true));
  const said = Array.from({ length: 30 }, (_, i) =>
    tokenSentences(state, PARTS, PROMPT + i, String, false).join(" "),
  );
  const [most, several] = [said.filter((text) => / most /.test(text)), /in \d of 4 layers/];
  expect(most.length).toBeGreaterThan(0);
  for (const text of most) expect(text).toMatch(/; most misses in layer \d: experts \d/);
  // One miss in each layer: none has the most.
  const even = said.filter((text) => several.test(text) && !/most/.test(text));
  expect(even.length).toBeGreaterThan(0);
});
