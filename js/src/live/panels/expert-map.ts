// A map of experts in a panel: one level per expert. The routing and the residency panel use it.

import type { Focus } from "../../charts/focus";
import { Heatmap } from "../../charts/heatmap";
import type { Chosen, Moved } from "../../charts/marks";
import { integer } from "../../widget/format";
import type { Theme } from "../../widget/theme";
import type { ExpertStates, RunState } from "../state";
import type { Panel } from "./panel";

export class ExpertMap {
  /** The level of each expert, at layer * experts + expert; the panel decides what levels mean. */
  levels = new Uint8Array(0);
  /** The experts drawn last. */
  states: ExpertStates;
  readonly heatmap: Heatmap;
  #colours: Uint32Array = new Uint32Array(0);

  constructor(
    private readonly state: RunState,
    panel: Panel,
    label: string,
    focus: Focus,
    signal: AbortSignal,
    share = 1,
  ) {
    this.states = state;
    this.heatmap = new Heatmap(label, focus, signal);
    panel.add(this.heatmap.canvas.node, share, this.heatmap.bitmap.node);
  }

  /** Set the experts to show; `levels` then has an entry for each. */
  setStates(states: ExpertStates): void {
    this.states = states;
    const size = states.counts.length;
    if (this.levels.length !== size) this.levels = new Uint8Array(size);
  }

  /** Draw the levels. The `chosen` experts get a ring, or a diamond where they missed; `next` has brackets. */
  draw(
    theme: Theme,
    colours: Uint32Array,
    chosen: readonly Chosen[] | undefined,
    moved?: readonly Moved[],
    next?: number,
  ): void {
    this.#colours = colours;
    this.heatmap.draw({ ...this.#cells, ...(moved && { moved }), chosen, next }, theme);
  }

  /** What a pixel shows if there are more experts than pixels, else "". */
  get note(): string {
    const { shared } = this.heatmap;
    return shared > 1 ? `each pixel shows the highest of up to ${integer(shared)} experts` : "";
  }

  get #cells() {
    const { layers, experts } = this.state;
    return { layers, experts, levels: this.levels, colours: this.#colours };
  }
}
