// The parts of a token's time. What they are, and what they are called, is Python's to say.

import type { Info } from "../widget/host";
import type { RunState } from "./state";
import type { Role, Theme } from "../widget/theme";

/** `column` is its place among a frame's parts, `key` is what colours go by. */
export interface Part {
  column: number;
  key: string;
  name: string;
  means: string;
}

const part = (column: number, key: string, name: string, means: string): Part => ({
  ...{ column, key, name, means },
});

/** Those of frames of version 2, whose Python told nothing of them. */
const OF_2: readonly Part[] = [
  part(0, "compute", "route", "until the routers’ choices were known"),
  part(1, "lookup", "look-up", "who was in RAM, who left, handing over reads"),
  part(2, "read_wait", "waiting for reads", "waiting for experts from disk"),
  part(3, "install", "install", "putting what was read into its slots"),
  part(4, "sample", "sampling", "the sampler, and what was computed for it"),
  part(5, "other", "other", "what no part claims"),
];

const NONE: readonly Part[] = [];

export function partsOf(info: Info, state: RunState): readonly Part[] {
  if (state.steps.partCount === OF_2.length) return OF_2;
  return info.parts ?? NONE;
}

/** The colour of a part: its own, or that of the rest where the page has none for it. */
export function colourOf({ key }: Part, theme: Theme): string {
  return theme[ROLES[key] ?? "other"];
}

/** The class of a part's swatch. */
export const swatchOf = ({ key }: Part): string => ROLES[key] ?? "other";

const ROLES: Record<string, Role> = {
  ...{ dense: "dense", experts: "experts", graph: "graph", compute: "dense", route: "route" },
  ...{ lookup: "lookup", read_wait: "miss", install: "install", sample: "sample" },
  ...{ watch: "watch", other: "other" },
};
