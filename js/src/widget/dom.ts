// Helpers that build elements. They insert text as text, never as markup.

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

/** A widget's outermost element. It keeps key presses inside from triggering notebook shortcuts. */
export function rootElement(className: string): HTMLElement {
  const root = el("div", className, { [NO_SHORTCUTS]: "true" });
  // Some shortcuts look only at the focused element, before they look at the root.
  root.addEventListener("focusin", (event) => {
    (event.target as Element).setAttribute(NO_SHORTCUTS, "true");
  });
  // JupyterLab prevents the input of Shift+Enter and Ctrl+Z in a cell's text boxes. Stopping the
  // event here lets our own boxes receive them.
  root.addEventListener("beforeinput", (event) => event.stopPropagation(), { capture: true });
  return root;
}

/** Whether a key is pressed with Ctrl, Cmd or Alt. */
export const modified = (event: KeyboardEvent): boolean =>
  event.ctrlKey || event.metaKey || event.altKey;

/** Let keys with Ctrl, Cmd or Alt trigger the notebook's shortcuts from a view without text boxes. */
export function shareShortcuts(root: HTMLElement): void {
  const pressed = (event: KeyboardEvent) => {
    const outer = root.closest(".oj-chat") ?? root;
    for (let node = event.target as Element; outer.contains(node); node = node.parentElement!) {
      if (modified(event)) node.removeAttribute(NO_SHORTCUTS);
      else node.setAttribute(NO_SHORTCUTS, "true");
    }
  };
  // Some notebooks look before a key arrives here: there the press of Ctrl itself is what counts.
  root.addEventListener("keydown", pressed, true);
  root.addEventListener("keyup", pressed, true);
}

/** The focused element. A host may keep the widget in a shadow root, as marimo does. */
export const focusBeside = (node: Node): Element | null =>
  (node.getRootNode() as Document | ShadowRoot).activeElement;

/** Set an element's tooltip, only if it differs. */
export function setTitle(node: HTMLElement, title: string): void {
  if (node.title !== title) node.title = title;
}

/** Set an element's text, only if it differs: most texts stay the same from frame to frame. */
export function setText(node: HTMLElement, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}
