// Renders the model's Markdown as elements. HTML tags in it are shown as text, the output of marked
// is sanitised, and nothing is fetched.

import DOMPurify from "dompurify";
import { Marked } from "marked";
import { el } from "../widget/dom";
import type { Modules } from "../widget/module";
import { FORMULA, formulaTokens } from "./formula-tokens";
import type { typeset } from "./formulas";
import type { highlighted } from "./highlight";

const TAGS =
  "p br hr h1 h2 h3 h4 h5 h6 strong em del code pre blockquote ul ol li table thead tbody tr th td a";

const SAFE = {
  ALLOWED_TAGS: TAGS.split(" "),
  ALLOWED_ATTR: ["href", "title", "class", "align", "start"],
  ADD_URI_SAFE_ATTR: ["align", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true as const,
};

const escaped = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);

const marked = new Marked({
  gfm: true,
  async: false,
  renderer: {
    html: ({ text, block }) => (block ? `<p>${escaped(text)}</p>` : escaped(text)),
    // Fetching an image would tell its server that the answer was read.
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

marked.use({ extensions: formulaTokens });

/** Render `text`; what a module that has not arrived would draw stays plain. */
export function render(text: string, modules: Modules): DocumentFragment {
  const fragment = DOMPurify.sanitize(marked.parse(text) as string, SAFE);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    if (!link.hasAttribute("href")) link.replaceWith(...link.childNodes); // the sanitiser refused it
  }
  for (const pre of fragment.querySelectorAll("pre")) pre.replaceWith(codeBlock(pre, modules));
  for (const code of fragment.querySelectorAll<HTMLElement>(`code.${FORMULA}`))
    showFormula(code, modules);
  for (const table of fragment.querySelectorAll("table")) {
    const box = el("div", "oj-scroll", { tabindex: "0" });
    table.replaceWith(box);
    box.append(table);
  }
  return fragment;
}

/** A code block with its language and a button that copies it. */
function codeBlock(pre: HTMLPreElement, modules: Modules): HTMLElement {
  const code = pre.querySelector("code") ?? pre;
  const language = /(?:^|\s)language-(\S+)/.exec(code.className)?.[1] ?? "";
  const text = code.textContent ?? "";
  const button = el("button", "oj-button oj-quiet", { type: "button" }, "Copy");
  button.setAttribute("aria-label", "Copy this code");
  button.addEventListener("click", () => void copyFrom(button, text));
  const head = el("div", "oj-code-head", {}, el("span", "", {}, language || "code"), button);
  const highlight = language && modules.get<{ highlighted: typeof highlighted }>("highlight");
  const pieces = highlight ? highlight.highlighted(text, language) : [text];
  const body = el("pre", "", { tabindex: "0" }, el("code", "", {}, ...pieces));
  return el("div", "oj-code", {}, head, body);
}

/** Typeset a formula in place of its source, which stays where it cannot be. */
function showFormula(code: HTMLElement, modules: Modules): void {
  const formulas = modules.get<{ typeset: typeof typeset }>("formulas");
  const shown = formulas?.typeset(code.textContent ?? "", DOMPurify);
  if (typeof shown === "string") code.title = shown;
  else if (shown) code.replaceWith(shown);
}

/** Copy `text` to the clipboard, and show the result on the button. */
export async function copyFrom(button: HTMLElement, text: string): Promise<void> {
  const done = await copy(text);
  const label = button.dataset.label ?? button.textContent ?? "";
  button.dataset.label = label;
  button.textContent = done ? "Copied" : "Cannot copy";
  setTimeout(() => {
    button.textContent = label;
  }, 1500);
}

async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // On a page that is not served securely this is the only way to the clipboard.
    const box = el("textarea", "", { "aria-hidden": "true" });
    box.value = text;
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    return done;
  }
}
