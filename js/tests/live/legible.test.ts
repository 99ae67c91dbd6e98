// What can be read in a narrow view: nothing is cut without a way to see the rest.

import { afterEach, beforeEach, expect, test } from "vitest";
import "../../src/live.css";
import { drawNext, Marks } from "../../src/charts/marks";
import widget from "../../src/live";
import { readTheme } from "../../src/widget/theme";
import { encode, MockModel, PARTS, Synthetic, settled } from "../synthetic";

const SHAPE = { layers: 6, experts: 32, k: 4, slots: 48, prompt: 5, expertBytes: 1_000_000 };
const RECORDED = ["alternatives"];

let host: HTMLElement;
let close = () => {};

/** A finished run of 40 tokens in a view of this width. */
async function open(width: number, hinted = false): Promise<MockModel> {
  localStorage.clear();
  if (!hinted) localStorage.setItem("outlier_jupyter.hint", "seen");
  host.style.width = `${width}px`;
  const policy = { policy: "lru", evicts: "unused longest" };
  const info = { model: "tiny", parts: PARTS, recorded: RECORDED, prompt: "Hi", ...policy };
  const model = new MockModel({ info });
  const run = new Synthetic(SHAPE);
  const instance = widget();
  instance.initialize({ model });
  const controller = new AbortController();
  instance.render({ model, el: host, signal: controller.signal });
  close = () => controller.abort();
  model.set("status", "running");
  model.frame(encode(run.next(5, false)));
  for (let i = 0; i < 40; i += 1) model.frame(encode(run.next(1, true, i === 39)));
  model.set("status", "stop");
  const others = [7, 1000, 2, 3, 4].map((id, n) => [id, " architecture", -9 * n]);
  const likely = { chosen: others[0], rank: 1, others };
  const about = { alternatives: 0 };
  model.emit("msg:custom", { type: "told", about, likely: Array(64).fill(likely) });
  await drawn();
  return model;
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
const box = (selector: string) => $(selector).getBoundingClientRect();
const cut = (node: HTMLElement) => node.scrollWidth > node.clientWidth + 1;
const WIDTHS = [500, 700, 848, 1000, 1280, 1700];

test.each(WIDTHS)(
  "at %i px titles, shares and legends are whole, sentences in a tooltip",
  async (width) => {
    await open(width);
    all(".oj-token")[19].click();
    await drawn();
    const titles = all("h3, .oj-subtitle, .oj-legend-item, .oj-share, .oj-timeline-readout");
    const shown = titles.filter((node) => node.checkVisibility({ visibilityProperty: true }));
    expect(shown.filter(cut).map((node) => node.textContent)).toEqual([]);
    for (const item of all(".oj-legend-item")) {
      const [legend, { left, right }] = [item.closest(".oj-panel")!, item.getBoundingClientRect()];
      const { left: from, right: to } = legend.getBoundingClientRect();
      expect([left >= from || !right, right <= to + 1]).toEqual([true, true]);
    }
    for (const node of all(".oj-readout")) expect(node.title).toContain(node.textContent);
    const readout = $(".oj-residency .oj-readout");
    expect(readout.scrollHeight).toBeLessThanOrEqual(readout.clientHeight + 1);
  },
);

test("the readout says who is evicted next, by which policy and why; the tooltip who follows", async () => {
  await open(848);
  const readout = $(".oj-residency .oj-readout");
  expect(readout.textContent).toMatch(
    /^most misses .* · next out: layer \d expert \d+ \(lru: unused longest\)$/,
  );
  expect(readout.title).toMatch(/\nThen out: layer \d expert \d+, layer \d expert \d+$/);
  expect(readout.scrollHeight).toBeLessThanOrEqual(readout.clientHeight + 1);
  expect($(".oj-swatch-next").checkVisibility()).toBe(true);
});

test("brackets around the cell that is evicted next reach beyond every other mark", () => {
  const canvas = host.appendChild(document.createElement("canvas"));
  host.className = "oj-root";
  const context = canvas.getContext("2d")!;
  const theme = readTheme(host);
  const map = {
    layers: 10,
    experts: 20,
    levels: new Uint8Array(200),
    colours: new Uint32Array(256),
  };
  const area = { x: 0, y: 0, width: 140, height: 90 };
  const middle = [6 * 7 + 3.5, 4 * 9 + 4.5];
  const inked = () => {
    const { data, width } = context.getImageData(0, 0, 140, 90);
    let far = 0;
    data.forEach((alpha, i) => {
      if (i % 4 !== 3 || !alpha || data[i - 3] > 127) return;
      const [x, y] = [((i - 3) / 4) % width, Math.floor((i - 3) / 4 / width)];
      far = Math.max(far, Math.min(Math.abs(x - middle[0]), Math.abs(y - middle[1])));
    });
    return far;
  };
  const image = context.getImageData(0, 0, 140, 90);
  new Marks(area, map, 1, theme).chosen(image, [{ index: 4 * 20 + 6, hit: false }]);
  context.putImageData(image, 0, 0);
  const miss = inked();
  drawNext(context, area, map, 4 * 20 + 6, theme);
  expect(inked()).toBeGreaterThan(miss + 2);
});

test.each(WIDTHS)(
  "at %i px the text has the room while nothing is explained, and no plot moves",
  async (width) => {
    await open(width);
    const plots = ["routing", "residency", "latency", "time"];
    const places = () => plots.map((name) => JSON.stringify(box(`.oj-${name}`)));
    const [tall, before] = [box(".oj-text").height, places()];
    all(".oj-token")[19].click();
    await drawn();
    expect(tall).toBeGreaterThan(box(".oj-text").height + 80);
    expect(places()).toEqual(before);
    $(".oj-follow").click();
    await drawn();
    expect(box(".oj-text").height).toBe(tall);
    const body = $(".oj-explain-body");
    expect(body.scrollHeight).toBeLessThanOrEqual(body.clientHeight);
  },
);

test("a folded panel leaves its room to the panel beside it", async () => {
  await open(848);
  const { width } = box(".oj-residency");
  $(".oj-routing .oj-fold").click();
  await drawn();
  expect(box(".oj-residency").width).toBeGreaterThan(1.8 * width);
  $(".oj-routing .oj-fold").click();
  $(".oj-text .oj-fold").click();
  all(".oj-token")[19].click();
  await drawn();
  expect(box(".oj-explain").top).toBeLessThan(box(".oj-text").bottom + 10);
});

test("a table has a line for each row, the legend's room, and keeps its first column in sight", async () => {
  await open(848);
  $(".oj-residency .oj-as-table").click();
  await drawn();
  const table = $(".oj-residency .oj-table");
  expect($(".oj-residency .oj-legend").checkVisibility()).toBe(false);
  for (const row of all(".oj-residency tbody tr")) expect(row.offsetHeight).toBeLessThan(30);
  expect(table.scrollHeight).toBeLessThanOrEqual(table.clientHeight + 1); // all six layers
  expect(table.scrollWidth).toBeGreaterThan(table.clientWidth);
  table.scrollLeft = 200;
  const [cell, { left }] = [box(".oj-residency tbody td"), table.getBoundingClientRect()];
  expect(Math.abs(cell.left - left)).toBeLessThan(2);
});

test("the first-time hint covers nothing", async () => {
  await open(848, true);
  const [hint, explain] = [box(".oj-first-hint"), box(".oj-explain")];
  expect(hint.height).toBeGreaterThan(20);
  expect([hint.top >= explain.top, hint.bottom <= explain.bottom]).toEqual([true, true]);
  expect($(".oj-first-hint").textContent).toContain("bar in Time");
});
