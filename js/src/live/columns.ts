// Numbers per token that no frame carries: a finished run's router entropy, or one expert's weight.
//
// Python sends them on request, once. A page without a kernel finds some of them in `info`.

import type { Info } from "./info";

/** What a column is about, as Python's columns.py knows it. */
export type ColumnSubject =
  | { column: "entropy" }
  | { column: "weight"; layer: number; expert: number };

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
  private readonly answers = new Map<string, Answer>();
  private embedded: Info["columns"];

  constructor(private readonly request: (about: ColumnSubject) => void) {}

  get(about: ColumnSubject, info: Info): Float32Array | null {
    this.takeEmbedded(info.columns);
    const key = keyOfColumn(about);
    if (!this.answers.has(key) && !info.columns) {
      this.answers.set(key, { values: null, reason: "" });
      this.request(about);
    }
    return this.answers.get(key)?.values ?? null;
  }

  problem(about: ColumnSubject, info: Info): string {
    this.takeEmbedded(info.columns);
    const answer = this.answers.get(keyOfColumn(about));
    if (answer?.values || answer?.reason) return answer.reason;
    if (!info.columns) return "";
    return about.column === "entropy"
      ? "The router’s weights were not recorded in this run."
      : "This page has no kernel that could compute it.";
  }

  /** Keep Python's answer: float32 numbers, or none and the reason. */
  take(about: ColumnSubject, words: string, buffer: DataView | undefined): void {
    const values = buffer?.byteLength ? floatsIn(buffer) : null;
    const reason = values ? "" : words || "It is not known for this run.";
    this.answers.set(keyOfColumn(about), { values, reason });
  }

  private takeEmbedded(columns: Info["columns"]): void {
    if (columns === this.embedded) return;
    this.embedded = columns;
    for (const [name, text] of Object.entries(columns ?? {})) {
      const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
      this.answers.set(name, { values: floatsIn(new DataView(bytes.buffer)), reason: "" });
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
