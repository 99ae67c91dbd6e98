// The residency panel: the eviction order as shades and words, marks, and bands.

import { afterEach, expect, test } from "vitest";
import "../../../src/live.css";
import widget from "../../../src/live";
import { EvictionOrders } from "../../../src/live/eviction-orders";
import { type EvictionOrder, EXACT, RELEARNED, UNKNOWN } from "../../../src/live/frames";
import { LayerBands } from "../../../src/live/layer-bands";
import { LayerMisses } from "../../../src/live/layer-misses";
import { ordinal } from "../../../src/live/panels/residency-words";
import { Places, SHADES } from "../../../src/live/places";
import { arrivedAt, recentMoves } from "../../../src/live/recent-moves";
import { RunState } from "../../../src/live/state";
import { el } from "../../../src/widget/dom";
import { encode, MockModel, Synthetic, settled } from "../../synthetic";

const SHAPE = { layers: 3, experts: 8, k: 2, slots: 9, prompt: 4, expertBytes: 10 };

let host: HTMLElement | undefined;

afterEach(() => host?.remove());

function stateAfter(tokens: number, shape = SHAPE): RunState {
  const [state, run] = [new RunState(), new Synthetic(shape)];
  state.apply(run.next(shape.prompt, false));
  for (let i = 0; i < tokens; i += 1) state.apply(run.next(1, true));
  return state;
}

test("each expert in RAM has its place in the order, and the shade of it", () => {
  const state = stateAfter(20);
  const places = new Places(state);
  const last = state.steps.end - 1;
  expect(places.find(state, last, state.order)).toBe(true);
  expect(places.find(state, last, state.order)).toBe(false);
  const order = [...state.order!.experts];
  expect(places.next).toEqual(order.slice(0, 3));
  expect(places.scale).toBe("exact");
  state.resident.forEach((here, index) => {
    expect(places.place[index]).toBe(here ? order.indexOf(index) : -1);
    expect(places.levels[index] > 0).toBe(here === 1);
  });
  const shades = order.map((index) => places.levels[index]);
  expect(shades).toEqual([...shades].sort((a, b) => b - a)); // next out is the highest
  expect(shades[0]).toBe(SHADES);
});

test("what was evicted since the order came has no place, and what arrived stays longest", () => {
  const state = stateAfter(20);
  const places = new Places(state);
  const [first, ...rest] = state.order!.experts;
  const out = [...state.resident.keys()].filter((index) => !state.resident[index]);
  const resident = state.resident.slice();
  [resident[first], resident[out[0]]] = [0, 1];
  const experts = { ...state, resident, residentCount: state.residentCount };
  places.find(experts, state.steps.end - 1, state.order);
  expect(places.place[first]).toBe(-1);
  expect(places.levels[first]).toBe(0);
  expect(places.next[0]).toBe(rest[0]);
  expect(places.levels[out[0]]).toBe(1);
});

test("pinned experts have no place, and another order's kind is told", () => {
  const state = stateAfter(5);
  const places = new Places(state);
  const pinned = state.order!.experts.at(-1)!;
  places.find(state, 8, { ...state.order!, pinned: 1, kind: RELEARNED });
  expect([places.place[pinned], places.levels[pinned]]).toEqual([-1, 1]);
  expect(places.scale).toBe("relearned");
  const none: EvictionOrder = { kind: UNKNOWN, experts: new Uint32Array(0), pinned: 0, steps: 9 };
  places.find(state, 8, none);
  expect([places.scale, places.next]).toEqual(["unknown", []]);
});

test("without an order experts are shaded by the tokens since their last use", () => {
  const state = stateAfter(30);
  const places = new Places(state);
  const step = state.steps.end - 1;
  places.find(state, step, null);
  expect(places.scale).toBe("recency");
  const unused = (index: number) => {
    for (let at = step; at >= 0; at -= 1) {
      const [layer, expert] = [Math.floor(index / SHAPE.experts), index % SHAPE.experts];
      if (state.routing.chose(at, layer, expert)) return step - at;
    }
    return Number.POSITIVE_INFINITY;
  };
  const here = [...state.resident.keys()].filter((index) => state.resident[index]);
  here.sort((a, b) => unused(a) - unused(b));
  const levels = here.map((index) => places.levels[index]);
  expect(levels).toEqual([...levels].sort((a, b) => a - b));
  expect(levels[0]).toBeLessThan(levels.at(-1)!);
});

test("moves are found back from any step, the newest of each expert", () => {
  const state = stateAfter(30);
  for (const step of [8, 15, state.steps.end - 1]) {
    const found = recentMoves(state.moves, step);
    expect(new Set(found.map(({ index }) => index)).size).toBe(found.length);
    for (const { index, arrived, age } of found) {
      expect(age).toBeLessThan(3);
      if (arrived) expect(arrivedAt(state.moves, index, step)).toBe(step - age);
      else expect(arrivedAt(state.moves, index, step)).toBeNull();
    }
  }
});

test("a layer's spans are its residency, step by step", () => {
  const state = stateAfter(40);
  const bands = new LayerBands(state);
  for (const layer of [1, 0, 2]) {
    expect(bands.find(layer)).toBe(true);
    for (let step = SHAPE.prompt - 1; step < state.steps.end; step += 1) {
      const then = stateAfter(step - SHAPE.prompt + 1);
      for (let expert = 0; expert < SHAPE.experts; expert += 1) {
        const inside = bands.spans.some(
          (span) => span.expert === expert && span.from <= step && step < span.to,
        );
        expect(inside).toBe(then.resident[layer * SHAPE.experts + expert] === 1);
      }
    }
    expect(bands.find(layer)).toBe(false);
  }
});

test("misses of each layer are counted from the routing of decode, up to any step", () => {
  const state = stateAfter(250);
  const counted = new LayerMisses(state);
  for (const to of [state.steps.end - 1, 9, 130, 131, 67, 68, 3, state.steps.end - 1]) {
    const misses = [0, 1, 2].map((layer) => {
      let n = 0;
      for (let step = SHAPE.prompt; step <= to; step += 1) {
        const [hits, lookups] = state.layerHits(step, layer);
        n += lookups - hits;
      }
      return n;
    });
    expect(counted.count(to).misses).toEqual(misses);
    expect(counted.lookups).toEqual(misses.map(() => SHAPE.k * (to + 1 - SHAPE.prompt)));
    expect(misses[counted.most]).toBe(Math.max(...misses));
  }
});

test("orders are asked for one at a time, and ahead", () => {
  const asked: number[] = [];
  const orders = new EvictionOrders((step) => asked.push(step));
  expect(orders.after(5, 30)).toBeNull();
  expect(orders.after(6, 30)).toBeNull();
  expect(asked).toEqual([5]);
  const about = (length: number) => ({ kind: EXACT, length, pinned: 0 });
  const buffer = new DataView(Uint32Array.of(3, 1, 2, 7, 9).buffer);
  orders.take({ type: "orders", from: 5, orders: [about(3), about(2)] }, buffer);
  expect([...orders.after(5, 30)!.experts]).toEqual([3, 1, 2]);
  expect([...orders.after(6, 30)!.experts]).toEqual([7, 9]);
  expect(asked).toEqual([5, 13]); // a few tokens ahead
});

test("places are ordinals", () => {
  expect([1, 2, 3, 4, 11, 12, 13, 21, 102, 112].map(ordinal)).toEqual(
    "1st 2nd 3rd 4th 11th 12th 13th 21st 102nd 112th".split(" "),
  );
});

/** A finished run in a view, which answers questions for the order if `answers`. */
async function view(answers = true): Promise<{ model: MockModel; text: (of: string) => string }> {
  host = document.body.appendChild(el("div", ""));
  host.style.width = "1280px";
  const model = new MockModel({ info: { model: "tiny" } });
  const send = model.send.bind(model);
  model.send = (content) => {
    send(content);
    const { about } = content as { about?: { order?: number } };
    if (about?.order === undefined || !answers) return;
    const message = { type: "orders", from: about.order, orders: [] as object[] };
    message.orders.push({ kind: EXACT, length: 24, pinned: 0 });
    model.emit("msg:custom", message, [
      new DataView(Uint32Array.from({ length: 24 }, (_, i) => 23 - i).buffer),
    ]);
  };
  const instance = widget();
  instance.initialize({ model });
  instance.render({ model, el: host });
  const run = new Synthetic(SHAPE);
  model.set("status", "running");
  model.frame(encode(run.next(4, false)));
  for (let i = 0; i < 20; i += 1) model.frame(encode(run.next(1, true)));
  model.set("status", "length");
  await settled(host);
  return { model, text: (of) => host!.querySelector(`.oj-residency ${of}`)?.textContent ?? "" };
}

test("the readout names the layer with the most misses and the experts that leave next", async () => {
  const { text } = await view();
  expect(text(".oj-readout")).toMatch(
    /^most misses in decode: layer \d \(\d+ of 40, .+%\) · next out: layer \d expert \d$/,
  );
  expect(text(".oj-legend")).toContain("stays longest");
  expect(text(".oj-legend")).toContain("next out");
});

test("at an earlier token the order is the one that Python replays", async () => {
  const { model, text } = await view();
  host!.querySelectorAll<HTMLElement>(".oj-token")[6].click();
  await settled(host!);
  const asked = model.sent.filter((each) => "order" in ((each as { about?: object }).about ?? {}));
  expect(asked[0]).toEqual({ type: "ask", about: { order: 9 } });
  expect(text(".oj-readout")).toMatch(/^token 7 · \d of \d hit · next out: layer/);
});

test("until it arrives, and without a kernel, experts are shaded by recency of use", async () => {
  const { text } = await view(false);
  host!.querySelectorAll<HTMLElement>(".oj-token")[6].click();
  await settled(host!);
  expect(text(".oj-legend")).toContain("long unused");
  expect(text(".oj-readout")).not.toContain("next out");
});

test("the table has each layer's lookups, misses and miss rate, up to the token shown", async () => {
  const { text } = await view();
  host!.querySelector<HTMLElement>(".oj-residency .oj-as-table")!.click();
  await settled(host!);
  expect(text("caption")).toBe("Experts in RAM, and misses of each layer in decode");
  expect(text("thead")).toContain("In RAMLookupsMissesMiss rate");
  const cells = () =>
    [...host!.querySelectorAll(".oj-residency tbody td:nth-child(3)")].map((e) => e.textContent);
  expect(cells()).toEqual(["40", "40", "40"]);
});

test("bands take the place of the map, and the arrow keys choose rows", async () => {
  const { text } = await view();
  const [map, bands] = host!.querySelectorAll<HTMLButtonElement>(".oj-forms button");
  bands.click();
  await settled(host!);
  expect([map, bands].map((each) => each.getAttribute("aria-pressed"))).toEqual(["false", "true"]);
  const shown = [...host!.querySelectorAll<HTMLElement>(".oj-residency canvas[tabindex]")].filter(
    (canvas) => canvas.offsetParent,
  );
  expect(shown.map((canvas) => canvas.getAttribute("aria-label"))).toEqual([
    "When each expert of a layer was in RAM, and used",
  ]);
  expect(text(".oj-legend-note")).toMatch(/^rows: the \d of 8\u202fexperts that were in RAM/);
  expect(text("select")).toMatch(/^layer \d \(most misses\)layer 0layer 1layer 2$/);
  const press = (key: string) =>
    shown[0].dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  press("ArrowDown");
  await settled(host!);
  expect(text(".oj-readout")).toMatch(/^layer \d, expert \d: (in RAM since|on SSD)/);
  press("Enter");
  host!.querySelector<HTMLElement>(".oj-residency .oj-as-table")!.click();
  await settled(host!);
  expect(text("caption")).toMatch(/^Experts of layer \d that were in RAM$/);
});
