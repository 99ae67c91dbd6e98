// What Python reports about a run in the traits `info` and `status`.

import type { Likely } from "./alternatives";

/** A part of a token's time. */
export interface Part {
  /** The index of its column in a frame. */
  column: number;
  /** Selects its colour. */
  key: string;
  name: string;
  /** An explanation, for the tooltip. */
  means: string;
}

/** One of the machines that experts are spread over (`RankCounts.shown`). */
export interface Rank {
  name: string;
  words: string;
  /** The course of a decoded token's median read in ms; null where nothing was read. */
  ms: readonly (number | null)[];
}

/** The trait `info`; any entry may be missing. */
export interface Info {
  model?: string;
  reader?: string;
  reader_note?: string;
  expert_nbytes?: number;
  changed_output?: string;
  /** That the cache is smaller for a while, because memory was short. */
  memory_note?: string;
  /** Where the experts are spread over machines: what is known of each. */
  ranks?: readonly Rank[];
  /** The rank of each expert at layer * experts + expert, bytes as base64; 255 for none. */
  owners?: string;
  /** The eviction policy, and in a few words what it evicts first. */
  policy?: string;
  evicts?: string;
  cache?: string;
  prompt?: string;
  parts?: readonly Part[];
  /** Of a page without a kernel: numbers per step by name, float32 as base64. */
  columns?: Record<string, string>;
  /** Of a page without a kernel: what the model found likely, by step. */
  likely?: Readonly<Record<string, Likely>>;
  /** Of a run that goes on from a token of another: where, as a sentence. */
  branched?: string;
  /** Characters at the beginning of the text that were there before the first token. */
  prefilled?: number;
  /** Of a finished run: what was recorded that not every run has. */
  recorded?: readonly string[];
  /** Tokens per second to show, whatever the run computes. */
  pace?: number;
}

export type Status =
  | "waiting"
  | "running"
  | "stop"
  | "length"
  | "interrupted"
  | "error"
  | (string & {});

export const isOver = (status: Status): boolean => status !== "waiting" && status !== "running";
