// Zooming: which steps all charts show, and what sets them.

import { afterEach, beforeEach, expect, test } from "vitest";
import { Bars } from "../../src/charts/bars";
import { Focus } from "../../src/charts/focus";
import type { StepRange } from "../../src/charts/step-range";
import { Zoom } from "../../src/charts/zoom";
import "../../src/live.css";
import { el } from "../../src/widget/dom";
import { readTheme } from "../../src/widget/theme";

const ALL: StepRange = { from: 10, to: 110, origin: 10, prompt: false };

test("a zoom shows its steps, never outside the run's, and follows the playhead", () => {
  let changes = 0;
  const zoom = new Zoom(() => {
    changes += 1;
  });
  const shown = (at: number | null = null) => {
    const { from, to, zoomed } = zoom.apply(ALL, at);
    return [from, to, zoomed ?? false];
  };
  expect(shown()).toEqual([10, 110, false]);
  zoom.set(40, 60);
  expect(shown()).toEqual([40, 60, true]);
  expect(shown(45)).toEqual([40, 60, true]);
  expect(shown(60)).toEqual([41, 61, true]);
  expect(shown(12)).toEqual([12, 32, true]);
  zoom.set(100, 130);
  expect(shown()).toEqual([80, 110, true]);
  zoom.set(50, 51); // a token alone would fill the plot
  expect(shown()).toEqual([47, 55, true]);
  zoom.set(0, 500);
  expect(shown()).toEqual([10, 110, false]);
  zoom.set(40, 60);
  zoom.reset();
  expect(shown()).toEqual([10, 110, false]);
  const before = changes;
  zoom.reset();
  expect([changes, before]).toEqual([6, 6]);
});

test("a shorter range keeps its centre where it was on the axis", () => {
  const zoom = new Zoom(() => {});
  zoom.scale(0.5, ALL, 60);
  expect(zoom.apply(ALL, null)).toMatchObject({ from: 35, to: 85 });
  zoom.scale(2, zoom.apply(ALL, null), 60);
  expect(zoom.active).toBe(true);
  expect(zoom.apply(ALL, null)).toEqual(ALL);
  expect(zoom.active).toBe(false);
});

let host: HTMLElement;
let bars: Bars;
let focus: Focus;
const controller = new AbortController();

beforeEach(() => {
  host = document.body.appendChild(el("div", "oj-root"));
  const plot = el("div", "oj-plot");
  plot.style.cssText = "position: relative; width: 654px; height: 200px"; // an axis of 600 px
  host.append(plot);
  focus = new Focus(() => {});
  bars = new Bars("bars", focus, controller.signal);
  plot.append(bars.plot.canvas.node);
  draw();
});

afterEach(() => host.remove());

function draw(): void {
  const shown = focus.zoom.apply({ ...ALL, from: 0, to: 100, origin: 0 }, null);
  const values = Array.from({ length: shown.to - shown.from }, () => 5);
  bars.draw({ shown, parts: [{ values, colour: "red" }], title: "ms" }, readTheme(host));
}

/** Press the pointer at one token, release it at another, as on a page: a click follows. */
function drag(from: number, to: number): void {
  const { node } = bars.plot.canvas;
  const { left, top } = node.getBoundingClientRect();
  const send = (type: string, token: number) => {
    const at = { clientX: left + 44 + 6 * token + 3, clientY: top + 50, bubbles: true, button: 0 };
    const Kind = type === "click" ? MouseEvent : PointerEvent;
    node.dispatchEvent(new Kind(type, at));
  };
  send("pointerdown", from);
  send("pointermove", (from + to) / 2);
  send("pointermove", to);
  const band = host.querySelector<HTMLElement>(".oj-brush");
  if (from !== to) expect(band?.style.width).toBe(`${6 * Math.abs(to - from)}px`);
  send("pointerup", to);
  send("click", to);
  expect(band?.hidden ?? true).toBe(true);
}

test("a drag over the tokens shows them alone; it does not move the playhead, a click does", () => {
  drag(40, 20);
  expect(focus.at).toBeNull();
  draw();
  expect(focus.zoom.apply({ ...ALL, from: 0, to: 100 }, null)).toMatchObject({ from: 20, to: 41 });
  focus.zoom.reset();
  draw();
  drag(30, 30);
  expect(focus.at).toBe(30);
  expect(focus.zoom.active).toBe(false);
});

test("a double click, 0 and Escape show all tokens; + and - show fewer and more", () => {
  const { node } = bars.plot.canvas;
  const press = (key: string) => {
    node.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
    draw();
    return focus.zoom.active;
  };
  for (const end of ["0", "Escape", "double click"]) {
    expect(press("+")).toBe(true);
    if (end !== "double click") expect(press(end)).toBe(false);
    else node.dispatchEvent(new MouseEvent("dblclick"));
    draw();
    expect(focus.zoom.active).toBe(false);
  }
  press("+");
  press("+");
  expect(press("-")).toBe(true);
  expect(press("-")).toBe(false);
  expect(press("-")).toBe(false);
});
