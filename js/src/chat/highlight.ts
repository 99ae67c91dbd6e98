// Highlights code, in the languages common in notebooks and terminals.
//
// The tokenizer splits code into pieces with a kind each. They are inserted as text, never as
// markup. Code in other languages stays plain.

import bash from "@speed-highlight/core/languages/bash.js";
import c from "@speed-highlight/core/languages/c.js";
import diff from "@speed-highlight/core/languages/diff.js";
import js from "@speed-highlight/core/languages/js.js";
import json from "@speed-highlight/core/languages/json.js";
import py from "@speed-highlight/core/languages/py.js";
import rs from "@speed-highlight/core/languages/rs.js";
import yaml from "@speed-highlight/core/languages/yaml.js";
import { type ShjLanguageData, tokenizeWith } from "@speed-highlight/core/tokenize";
import { el } from "../widget/dom";

// The library's own types differ from ours about `undefined`.
const LANGUAGES = { bash, c, diff, js, json, py, rs, yaml } as unknown as Record<
  string,
  ShjLanguageData
>;
/** Other names of the languages. */
const ALIASES: Record<string, string> = {
  ...{ python: "py", python3: "py", ipython: "py", sh: "bash", shell: "bash", zsh: "bash" },
  ...{ console: "bash", javascript: "js", ts: "js", typescript: "js", jsx: "js", tsx: "js" },
  ...{ cpp: "c", "c++": "c", h: "c", rust: "rs", yml: "yaml", patch: "diff" },
};
/** Longer code stays plain, because code is highlighted again with every redraw while it grows. */
const MAX_LENGTH = 20_000;

/** The pieces of `code`, highlighted if its language is known. */
export function highlighted(code: string, language: string): (Node | string)[] {
  const name = language.toLowerCase();
  const known = Object.hasOwn(ALIASES, name) ? ALIASES[name] : name;
  if (!Object.hasOwn(LANGUAGES, known) || code.length > MAX_LENGTH) return [code];
  const pieces: (Node | string)[] = [];
  const take = (text: string, kind?: string) => {
    if (text) pieces.push(kind ? el("span", `oj-code-${kind}`, {}, text) : text);
  };
  tokenizeWith(code, LANGUAGES[known], take, { languages: LANGUAGES });
  return pieces;
}
