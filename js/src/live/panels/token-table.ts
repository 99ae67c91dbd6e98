// The table of a panel with numbers per token.

import type { DrawInput } from "../draw-input";
import type { RunState } from "../state";
import type { Table } from "./panel";

/** Tokens in the table. */
const LAST = 20;

/** A row for each of the last tokens up to the one shown, newest first, from step `first` on. */
export function tokenTable(
  { steps }: RunState,
  { step, name }: DrawInput,
  head: readonly string[],
  row: (step: number) => string[],
  first = steps.first,
): Table {
  const last = step ?? steps.end - 1;
  const rows: string[][] = [];
  for (let each = last; each >= first && each > last - LAST; each -= 1)
    rows.push([name(each), ...row(each)]);
  const end = step === null ? "" : ` up to ${name(step)}`;
  const caption = `The last ${LAST} tokens${end}, newest first`;
  return { caption, head: ["Token", ...head], rows };
}
