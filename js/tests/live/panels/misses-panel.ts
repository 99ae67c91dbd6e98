// A panel in one file, as the contributors' guide shows it: how many lookups of each token missed.

import { Bars } from "../../../src/charts/bars";
import type { Focus } from "../../../src/charts/focus";
import type { DrawInput } from "../../../src/live/draw-input";
import { legendItem, Panel, type Table } from "../../../src/live/panels/panel";
import type { RunState } from "../../../src/live/state";

export class MissesPanel {
  readonly panel: Panel;
  private readonly bars: Bars;

  constructor(
    private readonly state: RunState,
    private readonly focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const legend = legendItem("miss", "miss");
    this.panel = new Panel("Misses", "misses", legend, () => this.table(), changed, signal);
    this.bars = new Bars("Misses of each token", focus, signal);
    this.panel.add(this.bars.plot.canvas.node, 1);
  }

  draw({ shown, theme }: DrawInput): void {
    const values = this.state.steps.column("misses", shown.from, shown.to);
    const all = values.reduce((sum, value) => sum + value, 0);
    this.panel.setReadout(`${all} misses`, this.focus.any);
    if (!this.panel.drawn) return;
    const parts = [{ values, colour: theme.miss, hatched: true }];
    this.bars.draw({ shown, parts, title: "misses" }, theme);
  }

  private table(): Table {
    const { steps } = this.state;
    const rows = Array.from({ length: steps.length }, (_, i) => {
      const step = steps.first + i;
      return [String(step), String(steps.at("misses", step))];
    });
    return { caption: "Misses of each token", head: ["step", "misses"], rows };
  }
}
