// A button of the chat.

import { el } from "../widget/dom";

/** A quiet button; what it does is its tooltip and, where its text does not say it, its name. */
export function button(text: string, what: string, act: () => void): HTMLButtonElement {
  const node = el("button", "oj-button oj-quiet", { type: "button", title: what }, text);
  if (text.length < 3) node.setAttribute("aria-label", what);
  node.addEventListener("click", act);
  return node;
}
