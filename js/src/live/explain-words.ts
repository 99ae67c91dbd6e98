// What the frames alone say about a token or an expert, in sentences. Python says more, but only
// where a kernel answers.

import type { Cell } from "../charts/focus";
import { bytes, integer, ms, percent, plural, short } from "../widget/format";
import type { Part } from "./info";
import type { RunState } from "./state";

/** The part of a token's time that is spent waiting for reads. */
export const WAIT = "read_wait";
/** A part of less than this, in ms, is not mentioned. */
const LEAST_MS = 0.0005;
/** The most arrivals and evictions of an expert that are listed, the last ones. */
const MOVES_LISTED = 6;

/** A part of a token's time, and how much it is. */
export interface Spent {
  part: Part;
  ms: number;
}

type Name = (step: number) => string;

/** The parts of a step's time, in Python's order, without those that took none. */
export function spentBy(state: RunState, parts: readonly Part[], step: number): Spent[] {
  return parts
    .map((part) => ({ part, ms: state.steps.part(part.column, step, step + 1)[0] ?? Number.NaN }))
    .filter(({ ms }) => ms >= LEAST_MS);
}

/**
 * Up to three sentences: what a token waited for, why that was not in RAM, and what is usual. The
 * second searches the run, so it is left out while the playhead moves and not `resting`.
 */
export function tokenSentences(
  state: RunState,
  parts: readonly Part[],
  step: number,
  name: Name,
  resting: boolean,
): string[] {
  const { steps } = state;
  const total = steps.at("tokenMs", step);
  if (Number.isNaN(total)) return ["Its numbers are no longer kept."];
  const spent = spentBy(state, parts, step);
  const [hits, misses] = [steps.at("hits", step), steps.at("misses", step)];
  const out: string[] = [];
  if (misses) {
    out.push(waitedFor(state, step, spent, total));
    if (resting) out.push(...causes(state, step, name));
  } else {
    if (hits) out.push(`All ${plural(hits, "lookup")} hit: nothing was read.`);
    const most = spent.reduce<Spent | null>((a, b) => (a && a.ms >= b.ms ? a : b), null);
    if (most) {
      const share = percent(most.ms, total);
      out.push(`Most of its time was ${most.part.name}: ${ms(most.ms)} (${share}).`);
    }
  }
  const usual = usualMs(state);
  if (usual > 0 && steps.at("phase", step)) {
    out.push(against(total, usual));
  }
  return out;
}

function waitedFor(state: RunState, step: number, spent: Spent[], total: number): string {
  const { steps } = state;
  const missed = missedBy(state, step);
  const wait = spent.find(({ part }) => part.key === WAIT)?.ms;
  const waited = wait
    ? `It waited ${ms(wait)} of ${ms(total)} (${percent(wait, total)})`
    : "It waited";
  const size = bytes(steps.at("nbytes", step));
  const text = `${waited} for ${plural(missed.length || steps.at("reads", step), "expert")}, ${size}`;
  const layers = new Map<number, number[]>();
  for (const { layer, expert } of missed) {
    layers.set(layer, [...(layers.get(layer) ?? []), expert!]);
  }
  if (!layers.size) return `${text}.`;
  const [layer, experts] = [...layers].reduce((a, b) => (b[1].length > a[1].length ? b : a));
  const which = `expert${experts.length > 1 ? "s" : ""} ${listed(experts)}`;
  if (layers.size === 1) return `${text}: layer ${layer}, ${which}.`;
  // Python says in which layer it waited longest; here only the misses of each layer are known.
  const most = experts.length > 1 ? `; most misses in layer ${layer}: ${which}` : "";
  return `${text}, in ${integer(layers.size)} of ${integer(state.layers)} layers${most}.`;
}

/** When the experts that a step missed were evicted; nothing if that is not kept. */
function causes(state: RunState, step: number, name: Name): string[] {
  const missed = missedBy(state, step);
  const steps = evictedBefore(state, missed, step);
  const evicted = missed
    .map((cell, i) => ({ cell, at: steps[i] }))
    .filter((each): each is { cell: Cell; at: number } => each.at !== null);
  const never = missed.length - evicted.length;
  if (!missed.length || (never && state.moves.from > 0)) return [];
  if (!evicted.length) {
    return [missed.length > 1 ? "None of them was in RAM before." : "It was never in RAM before."];
  }
  const last = evicted.reduce((a, b) => (b.at > a.at ? b : a));
  const when = last.at === step ? "earlier in this call" : `at ${name(last.at)}`;
  const which = `layer ${last.cell.layer}'s expert ${last.cell.expert}`;
  if (missed.length === 1) return [`It was evicted ${when}.`];
  const others = never ? `; ${integer(never)} had never been in RAM` : "";
  return [
    `${never ? `${integer(evicted.length)} of them` : `All ${integer(evicted.length)}`} had been evicted, the last ${when} (${which})${others}.`,
  ];
}

/** The experts that a step missed, each once. */
export function missedBy(state: RunState, step: number): Cell[] {
  const out: Cell[] = [];
  const { experts } = state;
  state.routing.forEach(step, experts, (index, hit) => {
    if (!hit) out.push({ layer: Math.floor(index / experts), expert: index % experts });
  });
  return out;
}

/** The step of each expert's last eviction before a step's lookup; null where none is known. */
function evictedBefore(state: RunState, missed: readonly Cell[], step: number): (number | null)[] {
  const { moves, layers, experts } = state;
  const indices = missed.map(({ layer, expert }) => layer * experts + expert!);
  const wanted = new Uint8Array(layers * experts);
  for (const index of indices) wanted[index] = 1;
  let left = missed.length;
  const [arrived, evicted] = [new Set<number>(), new Map<number, number>()];
  const last = (before: number) => (left ? moves.lastOf(wanted, before) : -1);
  for (let n = last(moves.endOf(step)); n >= 0; n = last(n)) {
    const index = moves.expertOf(n);
    const at = moves.stepOf(n);
    if (moves.arrived(n) && at === step) {
      arrived.add(index);
      continue;
    }
    if (at === step && !arrived.has(index)) continue; // evicted again after it was used
    if (!moves.arrived(n)) evicted.set(index, at);
    wanted[index] = 0;
    left -= 1;
  }
  return indices.map((index) => evicted.get(index) ?? null);
}

/** The median of each run, and the message after which it was computed. */
const medians = new WeakMap<RunState, { seq: number; ms: number }>();

/** The median time of the generated tokens that are kept, in ms; the first took the prompt's. */
export function usualMs(state: RunState): number {
  const { steps, seq } = state;
  const known = medians.get(state);
  if (known?.seq === seq) return known.ms;
  const times = steps
    .column("tokenMs", state.firstToken + 1, steps.end)
    .slice()
    .sort();
  const half = times.length >> 1; // two in the middle of an even number, as in Python
  const ms = (times[half] + times[times.length % 2 ? half : half - 1]) / 2;
  medians.set(state, { seq, ms });
  return ms;
}

/** The slowest generated tokens, the slowest first. */
export function slowest(state: RunState, count: number): number[] {
  const { steps } = state;
  const from = Math.max(steps.first, state.firstToken + 1);
  const times = steps.column("tokenMs", from, steps.end);
  const order: number[] = [];
  times.forEach((time, i) => {
    let at = order.length;
    while (at > 0 && times[order[at - 1]] < time) at -= 1;
    if (at >= count) return;
    order.splice(at, 0, i);
    order.length = Math.min(order.length, count);
  });
  return order.map((i) => from + i);
}

/** Sentences on an expert at a moment: how often it is chosen, its residency, its next use. */
export function expertSentences(
  state: RunState,
  { layer, expert }: Cell,
  at: number | null,
  users: readonly number[],
  name: Name,
): string[] {
  const { routing } = state;
  const share = percent(users.length, routing.length);
  const out = [
    users.length
      ? `${integer(users.length)} of ${plural(routing.length, "token")} chose it, prompt included (${share}).`
      : "No token chose it.",
  ];
  const moved = movesOf(state, layer * state.experts + expert!, at);
  const first = Math.max(0, moved.length - MOVES_LISTED);
  if (moved.length) {
    const texts = moved.slice(first).map(({ arrived, step }) => {
      return `${arrived ? "read" : "evicted"} at ${name(step)}`;
    });
    out.push(`${first ? "… " : ""}${sentence(texts.join(", "))}.`);
  }
  const moment = at ?? state.steps.end - 1;
  const next = users.find((step) => step > moment);
  const last = [...users].reverse().find((step) => step <= moment);
  if (next !== undefined) out.push(`Next used at ${name(next)}.`);
  else if (last !== undefined) out.push(`Last used at ${name(last)}.`);
  return out;
}

function movesOf(
  { moves }: RunState,
  index: number,
  at: number | null,
): { step: number; arrived: boolean }[] {
  const out: { step: number; arrived: boolean }[] = [];
  const end = at === null ? moves.end : moves.endOf(at);
  for (let n = moves.begin; n < end; n += 1) {
    if (moves.expertOf(n) === index) out.push({ step: moves.stepOf(n), arrived: moves.arrived(n) });
  }
  return out;
}

const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** "4", "4 and 7", "4, 7 and 9". */
function listed(numbers: readonly number[]): string {
  if (numbers.length < 2) return numbers.join("");
  return `${numbers.slice(0, -1).join(", ")} and ${numbers[numbers.length - 1]}`;
}

/** How a token's time compares with the median, in words. */
function against(total: number, usual: number): string {
  const ratio = total / usual;
  if (ratio > 1.15)
    return `It took ${short(ratio)} times as long as the median token (${ms(usual)}).`;
  const how = ratio < 0.87 ? "It was faster than" : "It took about as long as";
  return `${how} the median token (${ms(usual)}).`;
}
