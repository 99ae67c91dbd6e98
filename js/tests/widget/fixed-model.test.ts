// A page without a kernel answers from what it carries.

import { expect, test } from "vitest";
import { EXACT } from "../../src/live/frames";
import { Places } from "../../src/live/places";
import { RunStore } from "../../src/live/store";
import { FixedModel } from "../../src/widget/fixed-model";
import { Synthetic } from "../synthetic";

const SHAPE = { layers: 3, experts: 8, k: 2, slots: 9, prompt: 4, expertBytes: 10 };

function storeOf(part: boolean): RunStore {
  const run = new Synthetic(SHAPE);
  const buffer = new DataView(Uint32Array.of(5, 7, 9, 11, 13, 15).buffer);
  const entry = { kind: EXACT, length: 3, pinned: 0, ...(part ? { part } : {}) };
  const message = { type: "orders", from: 4, orders: [entry, entry] };
  const model = new FixedModel({ status: "stop" }, [], { message, buffer });
  const store = new RunStore(model);
  store.state.apply(run.next(SHAPE.prompt, false));
  for (let i = 0; i < 8; i += 1) store.state.apply(run.next(1, true));
  return store;
}

test("the order after an earlier token is the page's, also if another was requested first", async () => {
  const store = storeOf(false);
  expect(store.orderAfter(1)).toBe(null); // not on the page
  await Promise.resolve();
  expect([...store.orderAfter(4)!.experts]).toEqual([5, 7, 9]);
  expect([...store.orderAfter(5)!.experts]).toEqual([11, 13, 15]);
  expect(store.orderAfter(6)).toBe(null);
  store.close();
});

test("a part of an order says who is next out, and shades by the last use", async () => {
  const store = storeOf(true);
  store.orderAfter(4);
  await Promise.resolve();
  const { state } = store;
  const places = new Places(state);
  const resident = state.resident.slice().fill(1);
  const experts = { ...state, resident, residentCount: resident.length };
  places.find(experts, 4, store.orderAfter(4));
  expect(places.next).toEqual([5, 7, 9]);
  expect([places.place[5], places.place[9], places.place[11]]).toEqual([0, 2, -1]);
  expect(places.scale).toBe("recency");
  expect(Math.max(...places.levels)).toBeGreaterThan(1); // all long unused
  store.close();
});
