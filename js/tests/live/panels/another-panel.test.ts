// A panel from outside, in one file, draws with what every panel gets.

import { expect, test } from "vitest";
import "../../../src/live.css";
import { Focus } from "../../../src/charts/focus";
import { drawInput } from "../../../src/live/draw-input";
import { ExpertHistory } from "../../../src/live/history";
import { RunState } from "../../../src/live/state";
import { rootElement } from "../../../src/widget/dom";
import { readTheme } from "../../../src/widget/theme";
import { Synthetic } from "../../synthetic";
import { MissesPanel } from "./misses-panel";

const SHAPE = { layers: 4, experts: 16, k: 2, slots: 20, prompt: 5, expertBytes: 1_000_000 };

test("it counts the misses of the run, in words and as a table", () => {
  const run = new Synthetic(SHAPE);
  const state = new RunState();
  const frames = [run.next(5, false), ...Array.from({ length: 6 }, () => run.next(1, true))];
  for (const frame of frames) state.apply(frame);
  const misses = frames.slice(1).flatMap((frame) => [...frame.steps.misses]);
  const host = document.body.appendChild(rootElement("oj-root"));
  const focus = new Focus(() => {});
  const made = new MissesPanel(state, focus, () => {}, new AbortController().signal);
  host.append(made.panel.node);
  const theme = readTheme(host);
  made.draw(drawInput(state, focus, theme, state, new ExpertHistory(state)));
  const shown = misses.reduce((sum, value) => sum + value, 0);
  expect(made.panel.node.querySelector(".oj-readout")!.textContent).toMatch(/^\d+ misses$/);
  expect(shown).toBeGreaterThan(0);
  made.panel.node.querySelector<HTMLElement>(".oj-as-table")!.click();
  made.panel.drawTable(1000);
  const cells = [...made.panel.node.querySelectorAll("tbody td:last-child")].slice(-misses.length);
  expect(cells.map((cell) => Number(cell.textContent))).toEqual(misses);
  host.remove();
});
