// Small helpers for building elements. Text always goes in as text, never as markup.

type Attributes = Record<string, string | boolean>;

/** An element with a class, attributes and children; a string child becomes text. */
export function el<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  className: string,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[Tag] {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const NO_SHORTCUTS = "data-lm-suppress-shortcuts";

/** A widget's outermost element: no key pressed inside triggers a notebook's shortcuts. */
export function rootElement(className: string): HTMLElement {
  const root = el("div", className, { [NO_SHORTCUTS]: "true" });
  // Some shortcuts are bound to whatever has the focus, which is asked before the root is.
  root.addEventListener("focusin", (event) => {
    (event.target as Element).setAttribute(NO_SHORTCUTS, "true");
  });
  // JupyterLab listens at a text box in a cell for the line break that Shift+Enter, or the undoing
  // that Ctrl+Z is about to make there, and prevents it. What is typed in here is nobody else's.
  root.addEventListener("beforeinput", (event) => event.stopPropagation(), { capture: true });
  return root;
}

/** Set text only when it differs: most of a header stays the same from frame to frame. */
export function setText(node: HTMLElement, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}
