// Numbers per token that no frame carries: a finished run's router entropy, one expert's weight, what
// the model found likely, the kind of each token.
//
// Python sends them on request, once. A page without a kernel finds some of them in `info`.

import type { Info } from "./info";

/** What only some runs have, as the trait `info` says: `recorded`. */
export type Recorded = "surprise" | "token_entropy" | "segment";

/** The kinds of tokens, by their code in the column `segment`, as Python's segments.py knows them. */
export const KINDS = "template,system,user,thinking,answer,tool call,tool result".split(",");

/** What a column is about, as Python's columns.py knows it. */
export type ColumnSubject =
  | { column: Recorded | "entropy" }
  | { column: "weight"; layer: number; expert: number };

/** Whether a finished run has something that only some have. */
export const recorded = (info: Info, what: string): boolean => !!info.recorded?.includes(what);

/** Where panels get columns from. */
export interface ColumnSource {
  /** One number per step, NaN where it is not known; requested at the first call, until then null. */
  column(about: ColumnSubject): Float32Array | null;
  /** Why a column cannot be had, as a sentence; "" if it can, as far as is known. */
  columnProblem(about: ColumnSubject): string;
}

interface Answer {
  values: Float32Array | null;
  reason: string;
}

export class Columns {
  readonly #answers = new Map<string, Answer>();
  #embedded: Info["columns"];

  constructor(private readonly request: (about: ColumnSubject) => void) {}

  get(about: ColumnSubject, info: Info): Float32Array | null {
    this.#takeEmbedded(info.columns);
    const key = keyOfColumn(about);
    if (!this.#answers.has(key) && !info.columns && !this.problem(about, info)) {
      this.#answers.set(key, { values: null, reason: "" });
      this.request(about);
    }
    return this.#answers.get(key)?.values ?? null;
  }

  problem(about: ColumnSubject, info: Info): string {
    this.#takeEmbedded(info.columns);
    const answer = this.#answers.get(keyOfColumn(about));
    if (answer?.values || answer?.reason) return answer.reason;
    const { column } = about;
    if (column === "weight")
      return info.columns ? "This page has no kernel that could compute it." : "";
    const known = info.columns
      ? column in info.columns
      : column === "entropy" || recorded(info, column);
    return known ? "" : "It was not recorded in this run.";
  }

  /** Keep Python's answer: float32 numbers, or none and the reason. */
  take(about: ColumnSubject, words: string, buffer: DataView | undefined): void {
    const values = buffer?.byteLength ? floatsIn(buffer) : null;
    const reason = values ? "" : words || "It is not known for this run.";
    this.#answers.set(keyOfColumn(about), { values, reason });
  }

  #takeEmbedded(columns: Info["columns"]): void {
    if (columns === this.#embedded) return;
    this.#embedded = columns;
    for (const [name, text] of Object.entries(columns ?? {})) {
      const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
      this.#answers.set(name, { values: floatsIn(new DataView(bytes.buffer)), reason: "" });
    }
  }
}

function floatsIn(data: DataView): Float32Array {
  const out = new Float32Array(data.byteLength >> 2);
  for (let i = 0; i < out.length; i += 1) out[i] = data.getFloat32(4 * i, true);
  return out;
}

function keyOfColumn(about: ColumnSubject): string {
  return about.column === "weight" ? `weight ${about.layer}:${about.expert}` : about.column;
}
