import { afterEach, beforeEach, expect, test } from "vitest";
import "../../src/compare.css";
import widget from "../../src/compare";
import { encode, MockModel, PARTS, Synthetic, settled } from "../synthetic";

const SHAPE = { layers: 4, experts: 16, k: 2, slots: 20, prompt: 5, expertBytes: 1_000_000 };

/** An expert that no run of this shape chooses in its prompt. */
const UNUSED = 15;

let host: HTMLElement;
let close: () => void;

beforeEach(() => {
  document.body.style.cssText = "margin: 0; --jp-layout-color1: #ffffff";
  host = document.body.appendChild(document.createElement("div"));
  host.style.width = "1100px";
});

afterEach(() => {
  close();
  host.remove();
});

const $ = (selector: string) => host.querySelector<HTMLElement>(selector)!;
const text = (selector: string) => $(selector).textContent ?? "";

/** A view of two runs; each model is one of Python's live views. */
async function open(...models: MockModel[]): Promise<void> {
  const model = new MockModel({
    ...{ one: "IPY_MODEL_0", other: "anywidget:1", names: ["A", "B"], view_id: "oj-pair-1" },
  });
  const get_model = async (id: string) => models[Number(id)] ?? Promise.reject(new Error("none"));
  Object.assign(model, { widget_manager: { get_model } });
  const instance = widget();
  const dispose = instance.initialize({ model });
  const controller = new AbortController();
  const cleanup = instance.render({ model, el: host, signal: controller.signal });
  close = () => {
    cleanup();
    controller.abort();
    dispose();
  };
  await new Promise((done) => setTimeout(done, 50));
}

function live(): MockModel {
  return new MockModel({ info: { model: "tiny", parts: PARTS }, status: "running" });
}

/**
 * A run of `tokens` tokens whose text differs from others from token `other` on, and whose experts
 * from token `experts` on; with `warm` an expert was in RAM when it began.
 */
function finish(
  model: MockModel,
  tokens: number,
  other = Number.POSITIVE_INFINITY,
  experts = Number.POSITIVE_INFINITY,
  warm = false,
): void {
  const run = new Synthetic(SHAPE);
  const first = run.next(SHAPE.prompt, false, false);
  // What is evicted before it arrived was there when the run began.
  if (warm) first.move = Uint32Array.from([2 * UNUSED, ...first.move]);
  if (warm) first.moveStep = Uint32Array.from([0, ...first.moveStep]);
  model.frame(encode(first));
  for (let n = 0; n < tokens; n += 1) {
    const frame = run.next(1, true, n === tokens - 1);
    if (n + 1 >= other) frame.text = frame.text.replace(/[a-z]/g, "x");
    if (n + 1 >= experts) frame.expertsOf[3] = 15 - frame.expertsOf[3];
    model.frame(encode(frame));
  }
  model.set("status", "length");
}

test("where the routing of two runs parts is said once both are over", async () => {
  const [one, other] = [live(), live()];
  await open(one, other);
  finish(one, 12);
  other.frame(encode(new Synthetic(SHAPE).next(SHAPE.prompt, false, false)));
  await settled(host);
  expect(text(".oj-parting")).not.toMatch(/experts/);
  finish(other, 9, 4, 6);
  await settled(host);
  expect(text(".oj-parting")).toMatch(/x.*”.$/);
  expect(text(".oj-others")).toBe(" Other experts are first chosen at token 7.");
});

test("one playhead moves both runs, and the first different token is named and marked", async () => {
  const [one, other] = [live(), live()];
  await open(one, other);
  finish(one, 12);
  finish(other, 9, 4);
  await settled(host);
  expect(text(".oj-parting")).toMatch(/The texts part at token \d+: A says “.*”, B says “.*x.*”/);
  expect(host.querySelectorAll(".oj-token.oj-parts")).toHaveLength(2);
  $(".oj-go").click();
  await settled(host);
  const at = [...host.querySelectorAll(".oj-token.oj-at")].map((token) => token.className);
  expect(at).toHaveLength(2);
  expect(at.every((name) => name.includes("oj-parts"))).toBe(true);
  expect(text(".oj-where")).toMatch(/^token \d+ of 1[23]$/);
});

test("equal runs are said to be equal, and their difference is nothing", async () => {
  const [one, other] = [live(), live()];
  await open(one, other);
  finish(one, 8);
  finish(other, 8);
  await settled(host);
  expect(text(".oj-parting")).toBe("The texts are the same.");
  expect($(".oj-go").hidden).toBe(true);
  expect(text(".oj-difference .oj-readout")).toBe("Largest: none");
});

test("both texts are coloured on one scale", async () => {
  const [one, other] = [live(), live()];
  await open(one, other);
  finish(one, 8);
  const run = new Synthetic(SHAPE);
  other.frame(encode(run.next(SHAPE.prompt, false, false)));
  for (let n = 0; n < 8; n += 1) {
    const frame = run.next(1, true, n === 7);
    [frame.steps.hits[0], frame.steps.misses[0]] = [0, SHAPE.layers * SHAPE.k]; // all of them
    other.frame(encode(frame));
  }
  other.set("status", "length");
  await settled(host);
  const scales = [...host.querySelectorAll(".oj-text .oj-scale")].map((row) => row.textContent);
  expect(scales).toHaveLength(2);
  expect(scales[0]).toMatch(/100\s%/);
  expect(scales[1]).toBe(scales[0]);
});

test("of runs that began with other experts in RAM it is said that their costs do not compare", async () => {
  const [one, other] = [live(), live()];
  await open(one, other);
  finish(one, 8);
  finish(other, 8, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, true);
  await settled(host);
  expect(text(".oj-others")).toBe(
    " They began with other experts in RAM: hit rates and speeds cannot be compared.",
  );
});

test("a page that cannot find the runs says what to do", async () => {
  await open();
  expect(host.textContent).toContain("Show each with run.view()");
});
