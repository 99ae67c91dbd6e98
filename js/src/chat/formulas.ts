// Typesets formulas as MathML, which browsers draw with the fonts of the machine. A module of its
// own, because few answers have formulas.

import type { DOMPurify } from "dompurify";
import temml from "temml/temml.js";
import { el } from "../widget/dom";

/** Longer ones stay as they are: they are typeset again while the answer grows. */
const MAX_LENGTH = 5_000;
const MAX_KEPT = 500;
/** No size in a formula is larger, in em. */
const MAX_SIZE: [number, number] = [20, 20];

const SAFE = {
  USE_PROFILES: { mathMl: true },
  ADD_ATTR: ["class", "style"],
  FORBID_ATTR: ["href", "id", "src"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true as const,
};
/** Of a style, what could fetch something. */
const FETCHES = /url|image|\\|@/i;

interface Typeset {
  markup: string;
  error: string;
}
const kept = new Map<string, Typeset>();

/** The formula in `source`, with its delimiters; if it cannot be read, a sentence about the error. */
export function typeset(source: string, purify: DOMPurify): HTMLElement | string {
  const display = /^(?:\$\$|\\\[)/.test(source);
  const { markup, error } = made(source, display);
  if (error) return error;
  const node = purify.sanitize(markup, SAFE);
  for (const each of node.querySelectorAll("[style]"))
    if (FETCHES.test(each.getAttribute("style")!)) each.removeAttribute("style");
  // A long one scrolls by itself, and with the keyboard.
  const attributes = display ? { tabindex: "0" } : {};
  return el("span", display ? "oj-display oj-scroll" : "oj-math", attributes, node);
}

function made(source: string, displayMode: boolean): Typeset {
  const known = kept.get(source);
  if (known) return known;
  const out = { markup: "", error: "" };
  const edge = source.startsWith("$") && !displayMode ? 1 : 2;
  try {
    if (source.length > MAX_LENGTH) throw new Error("This formula is too long to be typeset.");
    const options = { displayMode, throwOnError: true, trust: false, maxSize: MAX_SIZE };
    out.markup = temml.renderToString(source.slice(edge, -edge), options);
  } catch (error) {
    out.error = error instanceof Error ? error.message : String(error);
  }
  if (kept.size >= MAX_KEPT) kept.clear();
  kept.set(source, out);
  return out;
}
