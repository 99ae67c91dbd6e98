// The parts of a token's time. Python decides which parts there are, and names them.

import type { Role, Theme } from "../widget/theme";
import type { Info, Part } from "./info";
import type { RunState } from "./state";

const part = (column: number, key: string, name: string, means: string): Part => ({
  ...{ column, key, name, means },
});

/** The parts of version 2 frames: Python did not describe them then. */
const PARTS_OF_VERSION_2: readonly Part[] = [
  part(0, "compute", "compute, undivided", "computing until the routers’ choices are known"),
  part(1, "lookup", "cache lookup", "finding which experts are in RAM and which are evicted"),
  part(2, "read_wait", "waiting for reads", "waiting for experts from disk"),
  part(3, "install", "install", "writing the experts that were read into their slots"),
  part(4, "sample", "sampling", "the sampler, and what was computed for it"),
  part(5, "other", "other", "time outside the other parts"),
];

const NONE: readonly Part[] = [];

export function partsOf(info: Info, state: RunState): readonly Part[] {
  if (state.steps.partCount === PARTS_OF_VERSION_2.length) return PARTS_OF_VERSION_2;
  return info.parts ?? NONE;
}

/** The colour role of a part; an unknown part has the role of the remainder. */
export const roleOf = ({ key }: Part): Role => ROLES[key] ?? "other";

export const colourOf = (part: Part, theme: Theme): string => theme[roleOf(part)];

const ROLES: Record<string, Role> = {
  ...{ dense: "dense", experts: "experts", graph: "graph", compute: "dense", route: "route" },
  ...{ lookup: "lookup", read_wait: "miss", install: "install", sample: "sample" },
  ...{ watch: "watch", other: "other" },
};
