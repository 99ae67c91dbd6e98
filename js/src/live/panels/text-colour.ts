// What the colour of the text means: a table of numbers per token, and the scale of one of them.
//
// A new meaning is one entry in `colouringsOf`, and its hue in text.css.

import type { Cell } from "../../charts/focus";
import { ms, percent, short } from "../../widget/format";
import type { ColumnSource, ColumnSubject } from "../columns";
import type { RunState } from "../state";

export interface Colouring {
  /** Selects the hue. */
  key: string;
  name: string;
  /** What its number is called beside others of a token; "" if they have it already. */
  label: string;
  /** An explanation, for the tooltip. */
  means: string;
  /** The column that its numbers come from, if frames do not have them. */
  column: ColumnSubject | null;
  /** The number of a step; NaN if it is not known. */
  value: (step: number) => number;
  /** A number with its unit. */
  format: (value: number) => string;
  /** Where the scale begins: at 0, or at the 1st percentile. */
  from: "zero" | "low";
  /** Why it cannot be shown, as a sentence; "" if it can. */
  blocked: string;
}

/** The ends of a scale, and the greatest number seen. */
export interface Scale {
  low: number;
  high: number;
  most: number;
}

/** How many shades a scale has. */
export const LEVELS = 100;

/** All that the text's colour may mean, of a run as it is now. `pinned` is the pinned expert. */
export function colouringsOf(
  state: RunState,
  source: ColumnSource,
  pinned: Cell | null,
): Colouring[] {
  const { steps } = state;
  const entropy: ColumnSubject = { column: "entropy" };
  const weight: ColumnSubject | null =
    pinned?.expert == null
      ? null
      : { column: "weight", layer: pinned.layer, expert: pinned.expert };
  const nothing = () => Number.NaN;
  const valueIn = (about: ColumnSubject) => {
    let values: Float32Array | null = null; // fetched at the first step, if at all
    return (step: number) => {
      values ??= source.column(about);
      return values?.[step] ?? Number.NaN;
    };
  };
  return [
    {
      ...{ key: "miss", name: "miss rate", label: "", column: null, from: "zero", blocked: "" },
      means: "The share of a token’s lookups whose expert was not in RAM.",
      value: (step) => {
        const misses = steps.at("misses", step);
        return misses / (misses + steps.at("hits", step));
      },
      format: (value) => percent(Math.round(1000 * value) / 1000),
    },
    {
      ...{ key: "time", name: "time", label: "", column: null, from: "zero", blocked: "" },
      means: "How long a token took.",
      value: (step) => steps.at("tokenMs", step),
      format: ms,
    },
    {
      ...{ key: "entropy", name: "router entropy", label: "router entropy", from: "low" },
      means:
        "How undecided the routers were: the entropy of the weights of a token’s experts, mean of the layers.",
      column: entropy,
      value: valueIn(entropy),
      format: (value) => `${short(value)}\u202fbits`,
      blocked: source.columnProblem(entropy),
    },
    {
      ...{ key: "weight", name: "weight of the pinned expert", label: "weight", from: "zero" },
      means: "The factor of the pinned expert’s output; 0 where a token did not choose it.",
      column: weight,
      value: weight ? valueIn(weight) : nothing,
      format: short,
      blocked: weight ? source.columnProblem(weight) : "Click an expert in a map first.",
    },
    {
      ...{ key: "none", name: "nothing", label: "", column: null, from: "zero", blocked: "" },
      ...{ means: "The text is not coloured.", value: nothing, format: short },
    },
  ];
}

/** The scale of some numbers, up to the 99th percentile; null if none of them is known. */
export function scaleOf(values: Float64Array, from: Colouring["from"]): Scale | null {
  const known = values.filter((value) => !Number.isNaN(value)).sort();
  const n = known.length;
  if (!n) return null;
  const most = known[n - 1];
  const high = known[Math.ceil(0.99 * n) - 1] || most;
  return { low: from === "zero" ? 0 : known[Math.floor(0.01 * n)], high, most };
}

/** The level of a number on a scale, 0 to LEVELS. */
export function levelOf(value: number, { low, high }: Scale): number {
  if (Number.isNaN(value) || high <= low) return value > low ? LEVELS : 0;
  return Math.round(LEVELS * Math.max(0, Math.min(1, (value - low) / (high - low))));
}
