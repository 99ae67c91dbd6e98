// Finds the formulas in Markdown: $…$, $$…$$, \(…\) and \[…\], outside of code.
//
// A dollar sign is more often money than TeX. So $…$ is a formula, as in Pandoc, only if no space
// follows the first sign or precedes the last one, and no letter or digit follows that; and not if
// it begins like a price in a sentence.

import type { TokenizerAndRendererExtension, Tokens } from "marked";

// A formula has at most 2,000 characters: a text of many beginnings without an end is not read anew
// from each of them.

/** The class of an element with a formula's source. */
export const FORMULA = "oj-formula";

const DISPLAYED = String.raw`(?:\$\$(?!\$)((?:(?!\n[ \t]*\n|\$\$)[^]){1,2000})\$\$(?!\$)|\\\[((?:(?!\n[ \t]*\n)[^]){1,2000}?)\\\])`;
const BLOCK = new RegExp(String.raw`^ {0,3}${DISPLAYED}[ \t]*(?:\n+|$)`);
const INLINE = new RegExp(
  String.raw`^(?:${DISPLAYED}|\\\(((?:(?!\n[ \t]*\n)[^]){1,2000}?)\\\)|\$(?![\s$])((?:\\[^]|[^$\\\n])*?(?:\\[^]|[^\s$\\]))\$(?![\w$]))`,
);
const PRICE = /^[\d.,]+ +(?:[a-z]{2,}|[-–—(])/i;

const CLOSES: Record<string, string> = { $$: "$$", "\\[": "\\]", "\\(": "\\)" };
/** Whether what closes a formula follows at all. */
const closed = (src: string): boolean => src.includes(CLOSES[src.trimStart().slice(0, 2)] ?? "", 2);

const escaped = (text: string): string =>
  text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]!);

const source = ({ raw }: Tokens.Generic): string =>
  `<code class="${FORMULA}">${escaped(raw.trim())}</code>`;

export const formulaTokens: TokenizerAndRendererExtension[] = [
  {
    name: "formulaBlock",
    level: "block",
    start(src) {
      const at = /\n {0,3}(?:\$\$|\\\[)/.exec(src)?.index;
      return at !== undefined && closed(src.slice(at)) ? at : undefined;
    },
    tokenizer(src) {
      const raw = closed(src) && BLOCK.exec(src)?.[0];
      return raw ? { type: "formulaBlock", raw } : undefined;
    },
    renderer: (token) => `<p>${source(token)}</p>`,
  },
  {
    name: "formula",
    level: "inline",
    start: (src) => /(?<![\w\\$])\$|\\[([]/.exec(src)?.index,
    tokenizer(src) {
      const [raw, , , , single] = (closed(src) && INLINE.exec(src)) || [];
      return raw && !PRICE.test(single ?? "") ? { type: "formula", raw } : undefined;
    },
    renderer: source,
  },
];
