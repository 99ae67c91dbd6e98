// What the two maps of experts have in common: a panel's plot with one level per expert.

import type { Focus } from "../../charts/focus";
import { integer } from "../../widget/format";
import { Heatmap } from "../../charts/heatmap";
import type { Chosen } from "../draw-input";
import type { Marked } from "../../charts/marks";
import type { Panel } from "./panel";
import type { Picture, RunState } from "../state";
import type { Theme } from "../../widget/theme";

type Ringed = readonly Chosen[] | undefined;

export class ExpertMap {
  /** Per expert, at layer * experts + expert; what a level means is the panel's affair. */
  levels = new Uint8Array(0);
  /** What was drawn last. */
  picture: Picture;
  readonly heatmap: Heatmap;
  private colours: Uint32Array = new Uint32Array(0);

  constructor(
    private readonly state: RunState,
    panel: Panel,
    label: string,
    focus: Focus,
    signal: AbortSignal,
    share = 1,
  ) {
    this.picture = state;
    this.heatmap = new Heatmap(label, focus, signal);
    panel.add(this.heatmap.canvas.node, share, this.heatmap.bitmap.node);
  }

  /** Take the experts to show: from now on there is a level for each. */
  take(picture: Picture): Picture {
    this.picture = picture;
    const size = picture.counts.length;
    if (this.levels.length !== size) this.levels = new Uint8Array(size);
    return picture;
  }

  /** `chosen` are ringed: hits, and misses with a filled heart. */
  draw(theme: Theme, colours: Uint32Array, chosen: Ringed, marked?: Marked): void {
    this.colours = colours;
    this.heatmap.draw({ ...this.cells, ...(marked && { marked }), chosen }, theme);
  }

  /** The levels have changed, and nothing else has. */
  drawLevels(): void {
    this.heatmap.drawCells(this.cells);
  }

  /** What a pixel shows where experts are more than pixels; "" where each has its own. */
  get note(): string {
    const { shared } = this.heatmap;
    return shared > 1 ? `each pixel shows the highest of up to ${integer(shared)} experts` : "";
  }

  private get cells() {
    const { layers, experts } = this.state;
    return { layers, experts, levels: this.levels, colours: this.colours };
  }
}
