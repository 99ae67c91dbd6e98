// The maps of experts: their levels, and what they say about an expert.

import { afterEach, expect, test } from "vitest";
import { sharing } from "../../../src/charts/bitmap";
import "../../../src/live.css";
import widget from "../../../src/live";
import { ranges } from "../../../src/live/panels/residency-words";
import { levelsOf } from "../../../src/live/panels/routing";
import { el } from "../../../src/widget/dom";
import { encode, MockModel, Synthetic, settled } from "../../synthetic";

const WIDE = { layers: 60, experts: 512, k: 10, slots: 900, prompt: 5, expertBytes: 1_000_000 };

let host: HTMLElement | undefined;

afterEach(() => host?.remove());

test("levels follow the root of the count, and zero stays apart", () => {
  const out = new Uint8Array(4);
  levelsOf(Uint32Array.of(0, 1, 25, 100), 100, out);
  expect(out[0]).toBe(0);
  expect(out[1]).toBe(1);
  expect(out[3]).toBe(255);
  expect(out[2]).toBeGreaterThan(100);
  levelsOf(Uint32Array.of(1, 0, 1_000_000, 5000), 1_000_000, out);
  expect(out[2]).toBe(255);
  expect(out[3]).toBeGreaterThan(1);
});

test("neighbouring experts are named as a range", () => {
  expect(ranges([0, 1, 2, 5, 7, 8])).toBe("0–2, 5, 7–8");
  expect(ranges([])).toBe("");
});

test("pointing at a map of more experts than pixels names the one that is shown", async () => {
  host = document.body.appendChild(el("div", ""));
  host.style.width = "700px";
  const model = new MockModel({ info: { model: "wide" } });
  const instance = widget();
  instance.initialize({ model });
  instance.render({ model, el: host });
  const frame = new Synthetic(WIDE).next(5, false);
  model.set("status", "running");
  model.frame(encode(frame));
  await settled(host);
  const counts = new Uint32Array(60 * 512);
  frame.countIndex.forEach((index, i) => {
    counts[index] = frame.count[i];
  });
  const panel = host.querySelector(".oj-routing")!;
  expect(panel.querySelector(".oj-legend")?.textContent).toMatch(/shows the highest of up to 2/);
  const cell = panel.querySelector(".oj-bitmap")!.getBoundingClientRect();
  const columns = Math.floor(cell.width);
  expect(columns).toBeLessThan(512);
  for (const column of [0, 100, columns - 1]) {
    const at = {
      clientX: cell.left + ((column + 0.5) * cell.width) / columns,
      clientY: cell.top + (7.5 * cell.height) / 60,
    };
    panel.querySelector("canvas")!.dispatchEvent(new PointerEvent("pointermove", at));
    await settled(host);
    const readout = panel.querySelector(".oj-readout")!.textContent!;
    const [, expert, times] = /layer 7 · expert (\d+) · (\d+)/.exec(readout)!.map(Number);
    const [from, to] = sharing(column, 512, columns);
    expect(expert >= from && expert < to).toBe(true);
    expect(times).toBe(Math.max(...counts.subarray(7 * 512 + from, 7 * 512 + to)));
  }
});
