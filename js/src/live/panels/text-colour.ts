// What the colour of the text means: a table of numbers per token, and the scale of one of them.
//
// A new meaning is one entry in `colouringsOf`, and its hue in text.css.

import type { Cell } from "../../charts/focus";
import { ms, nats, percent, probability, short } from "../../widget/format";
import { type ColumnSource, type ColumnSubject, KINDS } from "../columns";
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
  /** Of kinds instead of numbers: the codes of those that the text has. */
  kinds?: readonly number[];
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
  const weight: ColumnSubject | null =
    pinned?.expert == null
      ? null
      : { column: "weight", layer: pinned.layer, expert: pinned.expert };
  const own = { label: "", column: null, blocked: "" };
  const nothing = () => Number.NaN;
  /** What a colouring by a column has. */
  const by = (column: ColumnSubject, label: string) => {
    let values: Float32Array | null = null; // fetched at the first step, if at all
    const value = (step: number) => {
      values ??= source.column(column);
      return values?.[step] ?? Number.NaN;
    };
    return { name: label, label, column, value, blocked: source.columnProblem(column) };
  };
  return [
    {
      ...{ ...own, key: "miss", name: "miss rate", from: "zero" },
      means: "The share of a token’s lookups whose expert was not in RAM.",
      value: (step) => {
        const misses = steps.at("misses", step);
        return misses / (misses + steps.at("hits", step));
      },
      format: (value) => percent(Math.round(1000 * value) / 1000),
    },
    {
      ...{ ...own, key: "time", name: "time", from: "zero" },
      means: "How long a token took.",
      value: (step) => steps.at("tokenMs", step),
      format: ms,
    },
    {
      ...{ ...by({ column: "surprise" }, "surprise"), key: "surprise", from: "zero" },
      means: "How unlikely the model found a token: −log of its probability.",
      format: (value) => `${nats(value)} (${probability(-value)})`,
    },
    {
      ...{ ...by({ column: "token_entropy" }, "next-token entropy"), key: "token_entropy" },
      means: "How undecided the model was about a token: the entropy of all tokens’ probabilities.",
      ...{ from: "zero", format: nats },
    },
    {
      ...{ ...by({ column: "entropy" }, "router entropy"), key: "entropy", from: "low" },
      means:
        "How undecided the routers were: the entropy of the weights of a token’s experts, mean of the layers.",
      format: (value) => `${short(value)}\u202fbits`,
    },
    {
      ...(weight
        ? by(weight, "weight")
        : { ...own, value: nothing, blocked: "Click an expert in a map first." }),
      ...{ key: "weight", name: "weight of the pinned expert", from: "zero", format: short },
      means: "The factor of the pinned expert’s output; 0 where a token did not choose it.",
    },
    {
      ...{ ...by({ column: "segment" }, "segment"), key: "segment", from: "zero", format: short },
      ...{ label: "", value: nothing, kinds: kindsIn(state, source) },
      means: "What a token belongs to: thinking, the answer, a tool call, or the chat template.",
    },
    {
      ...{ ...own, key: "none", name: "nothing", from: "zero", value: nothing, format: short },
      means: "The text is not coloured.",
    },
  ];
}

/** The codes of the kinds that a text has, by the column with all of them. */
const found = new WeakMap<Float32Array, number[]>();

/** The codes of the kinds that the text's tokens have, ascending. */
function kindsIn({ firstToken }: RunState, source: ColumnSource): number[] {
  const all = source.column({ column: "segment" });
  if (!all) return [];
  const kinds =
    found.get(all) ?? [...new Set(all.subarray(firstToken))].filter((kind) => KINDS[kind]).sort();
  found.set(all, kinds);
  return kinds;
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
