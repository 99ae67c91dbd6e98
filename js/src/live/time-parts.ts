// The parts of a token's time. Python decides which parts there are, and names them.

import type { Role, Theme } from "../widget/theme";
import type { Info, Part } from "./info";

const NONE: readonly Part[] = [];

export const partsOf = (info: Info): readonly Part[] => info.parts ?? NONE;

/** The colour role of a part; an unknown part has the role of the remainder. */
export const roleOf = ({ key }: Part): Role => ROLES[key] ?? "other";

export const colourOf = (part: Part, theme: Theme): string => theme[roleOf(part)];

const ROLES: Record<string, Role> = {
  ...{ dense: "dense", experts: "experts", graph: "graph", compute: "dense", route: "route" },
  ...{ lookup: "lookup", read_wait: "miss", install: "install", sample: "sample" },
  ...{ watch: "watch", other: "other" },
};
