// The residency panel in words: which experts are next out, one expert's history, and the tables.

import { integer, percent, plural } from "../../widget/format";
import type { DrawInput } from "../draw-input";
import type { Info } from "../info";
import type { LayerBands } from "../layer-bands";
import type { LayerMisses } from "../layer-misses";
import type { Places } from "../places";
import { arrivedAt, recentMoves } from "../recent-moves";
import type { ExpertStates, RunState } from "../state";
import type { Table } from "./panel";

/** What the residency panel shows. */
export interface Shown {
  state: RunState;
  experts: ExpertStates;
  /** The step after which they are shown. */
  step: number;
  places: Places;
  misses: LayerMisses;
  input: DrawInput;
  info: Info;
}

/** "token 12", or "the prompt". */
function nameOf({ input }: Shown, step: number): string {
  return step < input.shown.origin ? "the prompt" : input.name(step);
}

/** The experts that are evicted next. */
function namesOf({ places, state }: Shown): string[] {
  return places.next.map(
    (index) => `layer ${Math.floor(index / state.experts)} expert ${index % state.experts}`,
  );
}

/** "next out: layer 4 expert 7 (lru: unused longest)". */
function nextOut(shown: Shown): string {
  const [first] = namesOf(shown);
  const { policy, evicts } = shown.info;
  const why = [policy, evicts].filter(Boolean).join(": ");
  if (first) return `next out: ${first}${why && ` (${why})`}`;
  return shown.places.scale === "unknown" ? "eviction order not known" : "";
}

/** Those that are evicted after it. */
export function nextAfter(shown: Shown): string {
  const names = namesOf(shown).slice(1);
  return names.length ? `\nThen out: ${names.join(", ")}` : "";
}

/** The hits of the token shown, else the layer with the most misses; and who is next out. */
export function aboutToken(shown: Shown): string {
  const { input, state, step } = shown;
  const [hits, misses] = [state.steps.at("hits", step), state.steps.at("misses", step)];
  let parts: string[] = [];
  if (input.step === null) parts = [mostMisses(shown)];
  else if (!Number.isNaN(hits)) {
    parts = [input.name(step), `${integer(hits)} of ${integer(hits + misses)} hit`];
  }
  return [...parts, nextOut(shown)].filter(Boolean).join(" · ");
}

/** "most misses in decode: layer 4 (61 of 256, 23.8 %)". */
function mostMisses({ misses, step }: Shown): string {
  const { most, lookups, misses: n } = misses.count(step);
  if (!n[most]) return "";
  const share = `${integer(n[most])} of ${integer(lookups[most])}, ${percent(n[most], lookups[most])}`;
  return `most misses in decode: layer ${most} (${share})`;
}

/** One expert: since when it is in RAM, how often it was used, and how soon it leaves. */
export function aboutExpert(shown: Shown, layer: number, expert: number): string {
  const { state, experts, step, places } = shown;
  const index = layer * state.experts + expert;
  const parts: string[] = [];
  if (experts.resident[index]) {
    const since = arrivedAt(state.moves, index, step);
    const before = state.moves.from > 0 ? "in RAM" : "in RAM since before the run";
    parts.push(since === null ? before : `in RAM since ${nameOf(shown, since)}`);
  } else parts.push("on SSD");
  const used = experts.counts[index];
  parts.push(
    used ? `used ${used === 1 ? "once" : `${integer(used)} times`}, prompt included` : "not used",
  );
  const last = lastUse(state, layer, expert, step);
  if (last !== null) parts.push(`last at ${nameOf(shown, last)}`);
  const place = places.place[index];
  if (place >= 0) parts.push(`${ordinal(place + 1)} to leave`);
  return `layer ${layer}, expert ${expert}: ${parts.join(", ")}`;
}

/** One layer: its experts in RAM, its misses so far, and the hits of the token shown. */
export function aboutLayer(shown: Shown, layer: number): string {
  const { state, experts, input, step } = shown;
  const width = state.experts;
  const row = experts.resident.subarray(layer * width, (layer + 1) * width);
  const inRam = row.reduce((n, here) => n + here, 0);
  const parts = [`layer ${layer}: ${integer(inRam)} of ${plural(width, "expert")} in RAM`];
  const { lookups, misses } = shown.misses.count(step);
  const [all, missed] = [lookups[layer], misses[layer]];
  if (all) {
    const share = percent(missed, all);
    parts.push(
      `${integer(missed)} of ${plural(all, "lookup")} missed (${share}), ${period(shown)}`,
    );
  }
  if (input.step !== null) {
    const [hits, lookups] = state.layerHits(step, layer);
    if (lookups) parts.push(`${input.name(step)}: ${hits} of ${plural(lookups, "hit")}`);
  }
  return parts.join(" · ");
}

/** "decode up to token 12", or "decode". */
function period({ input }: Shown): string {
  return input.step === null ? "decode" : `decode up to ${input.name(input.step)}`;
}

/** One row for each layer. */
export function layerTable(shown: Shown): Table {
  const { state, experts, step, places } = shown;
  const { lookups, misses } = shown.misses.count(step);
  const width = state.experts;
  const moved = recentMoves(state.moves, step);
  const rows: string[][] = [];
  for (let layer = 0; layer < state.layers; layer += 1) {
    const row = experts.resident.subarray(layer * width, (layer + 1) * width);
    const ids = Array.from(row.keys()).filter((expert) => row[expert]);
    const mine = moved.filter(({ index }) => Math.floor(index / width) === layer);
    const of = (arrived: boolean) =>
      ranges(mine.filter((each) => each.arrived === arrived).map((each) => each.index % width));
    const placed = ids.filter((expert) => places.place[layer * width + expert] >= 0);
    const place = (expert: number) => places.place[layer * width + expert];
    const next = placed.length ? placed.reduce((a, b) => (place(b) < place(a) ? b : a)) : null;
    const first = next === null ? "–" : `${next} (${ordinal(place(next) + 1)} of all)`;
    rows.push([
      ...[String(layer), integer(ids.length), integer(lookups[layer]), integer(misses[layer])],
      ...[percent(misses[layer], lookups[layer]), ranges(ids), first],
      ...[of(true), of(false)],
    ]);
  }
  const head = ["Layer", "In RAM", "Lookups", "Misses", "Miss rate", "Experts", "Next out"];
  head.push("Just arrived", "Just evicted");
  return { caption: `Experts in RAM, and misses of each layer in ${period(shown)}`, head, rows };
}

/** One row for each expert of a layer that was ever in RAM. */
export function bandTable(shown: Shown, bands: LayerBands): Table {
  const { state, experts } = shown;
  const rows = bands.experts.map((expert) => {
    const mine = bands.spans.filter((span) => span.expert === expert);
    const index = bands.layer * state.experts + expert;
    const when = mine
      .sort((a, b) => a.from - b.from)
      .map(({ from, to, arrived, evicted }) => {
        const begin = arrived ? nameOf(shown, from) : "before";
        return `${begin} – ${evicted ? nameOf(shown, to) : "now"}`;
      });
    const place = shown.places.place[index];
    const leaves = place < 0 ? "–" : ordinal(place + 1);
    return [String(expert), when.join("; "), integer(experts.counts[index]), leaves];
  });
  const head = ["Expert", "In RAM", "Used", "To leave"];
  return { caption: `Experts of layer ${bands.layer} that were in RAM`, head, rows };
}

function lastUse(state: RunState, layer: number, expert: number, step: number): number | null {
  const { routing } = state;
  for (let at = Math.min(step, routing.end - 1); at >= routing.first; at -= 1) {
    if (routing.chose(at, layer, expert)) return at;
  }
  return null;
}

/** "1st", "2nd", "3rd", "14th". */
export function ordinal(n: number): string {
  const teen = n % 100 > 10 && n % 100 < 14;
  return `${integer(n)}${(teen ? "" : ["", "st", "nd", "rd"][n % 10]) || "th"}`;
}

/** [3, 1, 2, 7] → "1–3, 7". */
export function ranges(numbers: number[]): string {
  const sorted = [...numbers].sort((a, b) => a - b);
  const out: string[] = [];
  for (let i = 0; i < sorted.length; ) {
    let end = i;
    while (sorted[end + 1] === sorted[end] + 1) end += 1;
    out.push(end > i ? `${sorted[i]}–${sorted[end]}` : String(sorted[i]));
    i = end + 1;
  }
  return out.join(", ");
}
