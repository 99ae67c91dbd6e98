// The levels of the residency map, and their colours.

import { pack } from "../../charts/colours";
import { parse, perTheme } from "../../widget/theme";
import { STAGES } from "../recency-fade";

/** Levels of a cell. RESIDENT + 1 … RESIDENT + STAGES are experts that recent tokens used. */
export const ABSENT = 0;
export const RESIDENT = 1;
export const EVICTED = STAGES + 2;
export const ARRIVED = STAGES + 3;

/** How far the colour of an expert in use moves from the resident colour to the ink, at most. */
const IN_USE = 0.8;

/**
 * The packed colour of each level. Ink makes experts in use darker on a light page, lighter on a
 * dark one.
 */
export const residencyColours = perTheme((theme) => {
  const [resident, ink] = [parse(theme.resident), parse(theme.ink)];
  const used = Array.from({ length: STAGES + 1 }, (_, stage) =>
    pack(resident.map((c, i) => c + ((ink[i] - c) * (IN_USE * stage)) / STAGES)),
  );
  return Uint32Array.of(
    pack(parse(theme.empty)),
    ...used,
    pack(parse(theme.evicted)),
    pack(parse(theme.miss)),
  );
});
