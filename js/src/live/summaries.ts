// What each panel shows, in a sentence, for those who do not see it.

import { bytes, integer, ms, percent, plural } from "../widget/format";
import type { Info } from "./info";
import type { ExpertStates, RunState } from "./state";
import { partsOf } from "./time-parts";

export const SUMMARISED = ["text", "routing", "residency", "latency", "time"] as const;

type Summaries = Record<(typeof SUMMARISED)[number], string>;

/** Milliseconds between two summaries: each goes through all tokens. */
const EVERY_MS = 1_000;

/** A function that has `action` called a little later, once for all calls until then. */
export function seldom(action: () => void, signal: AbortSignal): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  signal.addEventListener("abort", () => clearTimeout(timer));
  return () => {
    timer ??= setTimeout(() => {
      timer = undefined;
      action();
    }, EVERY_MS);
  };
}

/** Summaries of a run, with its experts as they are shown. */
export function summariesOf(state: RunState, info: Info, experts: ExpertStates): Summaries {
  const { steps, totals } = state;
  const from = Math.max(state.firstToken, steps.first);
  const column = (name: "tokenMs" | "max") => steps.column(name, from, steps.end);
  const token = (index: number) => `token ${integer(from + index - state.firstToken + 1)}`;
  const [times, reads] = [column("tokenMs"), column("max")];
  const [slowest, longest] = [highestAt(times), highestAt(reads)];
  const misses = totals.lookups - totals.hits;
  const most = experts.counts.indexOf(experts.maxCount);
  const expert = `expert ${most % state.experts} of layer ${Math.floor(most / state.experts)}`;
  return {
    text: `${plural(state.generated, "token")}; ${percent(misses, totals.lookups)} of the lookups missed.`,
    routing: experts.maxCount
      ? `${integer(experts.chosenCount)} of ${plural(experts.counts.length, "expert")} chosen; most often ${expert}, ${plural(experts.maxCount, "time")}.`
      : "No expert chosen yet.",
    residency: `${integer(experts.residentCount)} of ${plural(state.slots, "slot")} hold an expert.`,
    latency:
      longest < 0
        ? `${bytes(totals.nbytes)} read.`
        : `${bytes(totals.nbytes)} read in ${plural(totals.reads, "read")}; the longest took ${ms(reads[longest])}, for ${token(longest)}.`,
    time:
      slowest < 0
        ? "No token yet."
        : `The slowest, ${token(slowest)}, took ${ms(times[slowest])}${mainPart(state, info, from)}.`,
  };
}

/** "; most time went to waiting for reads, 74 %", over all tokens from a step on. */
function mainPart(state: RunState, info: Info, from: number): string {
  const sums = partsOf(info).map(({ name, column }) => {
    const values = state.steps.part(column, from, state.steps.end);
    return { name, spent: values.reduce((sum, value) => sum + (value || 0), 0) };
  });
  const all = sums.reduce((sum, { spent }) => sum + spent, 0);
  const main = sums.sort((a, b) => b.spent - a.spent)[0];
  return all > 0 ? `; most time went to ${main.name}, ${percent(main.spent, all)}` : "";
}

/** The index of the highest value; -1 without values. */
function highestAt(values: ArrayLike<number>): number {
  let at = -1;
  for (let i = 0; i < values.length; i += 1) {
    if (!Number.isNaN(values[i]) && (at < 0 || values[i] > values[at])) at = i;
  }
  return at;
}
