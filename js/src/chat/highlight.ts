// Code → coloured elements, for the languages that notebooks and their terminals speak.
//
// The tokenizer gives pieces of the text with a kind each; they go in as text, never as markup.
// What it does not know stays as it is.

import bash from "@speed-highlight/core/languages/bash.js";
import c from "@speed-highlight/core/languages/c.js";
import diff from "@speed-highlight/core/languages/diff.js";
import js from "@speed-highlight/core/languages/js.js";
import json from "@speed-highlight/core/languages/json.js";
import py from "@speed-highlight/core/languages/py.js";
import rs from "@speed-highlight/core/languages/rs.js";
import toml from "@speed-highlight/core/languages/toml.js";
import yaml from "@speed-highlight/core/languages/yaml.js";
import { type ShjLanguageData, tokenizeWith } from "@speed-highlight/core/tokenize";
import { el } from "../widget/dom";

// Their own types differ in what `undefined` may stand for.
const LANGUAGES = { bash, c, diff, js, json, py, rs, toml, yaml } as unknown as Record<
  string,
  ShjLanguageData
>;
const ALSO: Record<string, string> = {
  ...{ python: "py", python3: "py", ipython: "py", sh: "bash", shell: "bash", zsh: "bash" },
  ...{ console: "bash", javascript: "js", ts: "js", typescript: "js", jsx: "js", tsx: "js" },
  ...{ cpp: "c", "c++": "c", h: "c", rust: "rs", yml: "yaml", ini: "toml", patch: "diff" },
};
/** Longer code is shown plain: it is coloured again with every redraw while it grows. */
const LONGEST = 20_000;

/** The pieces of `code`, coloured as far as its language is known. */
export function coloured(code: string, language: string): (Node | string)[] {
  const name = language.toLowerCase();
  const known = Object.hasOwn(ALSO, name) ? ALSO[name] : name;
  if (!Object.hasOwn(LANGUAGES, known) || code.length > LONGEST) return [code];
  const pieces: (Node | string)[] = [];
  const take = (text: string, kind?: string) => {
    if (text) pieces.push(kind ? el("span", `oj-code-${kind}`, {}, text) : text);
  };
  tokenizeWith(code, LANGUAGES[known], take, { languages: LANGUAGES });
  return pieces;
}
