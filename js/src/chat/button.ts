// The chat's buttons.

import { el } from "../widget/dom";

/** A button without a border. `action` is its tooltip and, if `text` is only a sign, its name. */
export function button(text: string, action: string, act: () => void): HTMLButtonElement {
  const node = el("button", "oj-button oj-quiet", { type: "button", title: action }, text);
  if (text.length < 3) node.setAttribute("aria-label", action);
  node.addEventListener("click", act);
  return node;
}
