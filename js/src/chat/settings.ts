// The settings: a control for each option that Python names, and those of the conversation.

import { el, focusBeside, setText } from "../widget/dom";
import { button } from "./button";
import { CacheSize } from "./cache-size";
import type { ChatStore, Control } from "./store";

/** The second press of Delete must follow within this time. */
const CONFIRM_MS = 4_000;

type Input = HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;

export class Settings {
  readonly node: HTMLElement;
  readonly #system = el("textarea", "oj-input", { rows: "2" });
  readonly #title = el("input", "oj-input", { type: "text", maxlength: "200" });
  readonly #inputs = new Map<string, Input>();
  readonly #cache: CacheSize;
  readonly #file = el("input", "", { type: "file", accept: ".json,application/json" });
  readonly #remove: HTMLButtonElement;

  constructor(
    private readonly store: ChatStore,
    private readonly signal: AbortSignal,
  ) {
    this.#cache = new CacheSize(store, signal);
    this.#system.placeholder = "Instructions that the model reads before the conversation";
    this.#onChange(this.#system, () => this.#set("system", this.#system.value));
    this.#onChange(this.#title, () =>
      store.send({ type: "rename", conversation: this.#id, title: this.#title.value }),
    );
    this.#remove = button("Delete", "Delete this conversation", () => this.#deleteOrConfirm());
    this.#file.hidden = true;
    this.#file.addEventListener("change", () => void this.#importFile(), { signal });
    const all = el(
      "div",
      "oj-actions",
      {},
      button("Export", "Save all conversations as a file", () => store.send({ type: "export" })),
      button("Import", "Add the conversations of a file", () => this.#file.click()),
      this.#remove,
      this.#file,
    );
    this.node = el("section", "oj-settings", { "aria-label": "Settings" });
    this.node.append(
      el("label", "oj-wide", {}, el("span", "", {}, "System prompt"), this.#system),
      ...this.#groups(),
      el("label", "oj-wide", {}, el("span", "", {}, "Title of this conversation"), this.#title),
      all,
    );
  }

  draw(): void {
    show(this.#system, textOf(this.store.get("system")));
    show(this.#title, this.store.state.title);
    for (const [name, input] of this.#inputs) {
      const value = this.store.get(name);
      if (input.type === "checkbox") (input as HTMLInputElement).checked = value === true;
      else show(input, textOf(value));
    }
    this.#cache.draw();
  }

  get #id(): number {
    return this.store.state.conversation;
  }

  #groups(): HTMLElement[] {
    const groups = new Map<string, HTMLElement>();
    for (const control of this.store.controls) {
      const group =
        groups.get(control.group) ?? el("fieldset", "", {}, el("legend", "", {}, control.group));
      groups.set(control.group, group);
      group.append(this.#control(control));
    }
    groups.get("Cache")?.append(this.#cache.node);
    return [...groups.values()];
  }

  #control(control: Control): HTMLElement {
    const { name } = control;
    const input = inputOf(control);
    this.#inputs.set(name, input);
    this.#onChange(input, () => this.#set(name, controlValue(input, control)));
    return el("label", "", { title: control.help }, el("span", "", {}, control.label), input);
  }

  #set(name: string, value: unknown): void {
    this.store.send({ type: "set", name, value });
  }

  #onChange(node: HTMLElement, act: () => void): void {
    node.addEventListener("change", act, { signal: this.signal });
  }

  /** The first press asks for confirmation, the second one deletes. */
  #deleteOrConfirm(): void {
    if (this.#remove.dataset.confirming) {
      this.store.send({ type: "delete", conversation: this.#id });
      this.#endConfirm();
      return;
    }
    this.#remove.dataset.confirming = "yes";
    setText(this.#remove, "Really delete?");
    setTimeout(() => this.#endConfirm(), CONFIRM_MS);
  }

  #endConfirm(): void {
    delete this.#remove.dataset.confirming;
    setText(this.#remove, "Delete");
  }

  async #importFile(): Promise<void> {
    const file = this.#file.files?.[0];
    if (file) this.store.send({ type: "import", text: await file.text() });
    this.#file.value = "";
  }
}

function inputOf(control: Control): Input {
  const { kind, least, most, step, choices = [] } = control;
  if (kind === "choice")
    return el("select", "oj-input", {}, ...choices.map((each) => el("option", "", {}, each)));
  if (kind === "texts") {
    const box = el("textarea", "oj-input", { rows: "2" });
    box.placeholder = "NAME=VALUE, one a line";
    return box;
  }
  const input = el("input", "oj-input", { type: kind === "bool" ? "checkbox" : "number" });
  if (least !== null) input.min = String(least);
  if (most !== null) input.max = String(most);
  input.step = kind === "float" ? "any" : String(step);
  const none = /seed|budget/.test(control.name) ? "none" : "automatic";
  if (control.default === null) input.placeholder = none;
  return input;
}

/** A setting's text, a line for each of a list; a stranger's notebook may have anything in its place. */
function textOf(value: unknown): string {
  if (Array.isArray(value)) return value.map(textOf).join("\n");
  return typeof value === "object" ? "" : String(value ?? "");
}

/** Show a value unless the user is changing it. */
function show(input: Input, value: string): void {
  if (focusBeside(input) !== input && input.value !== value) input.value = value;
}

/** The value of a control; an empty one stands for the option's default. */
function controlValue(input: Input, control: Control): Control["default"] {
  if (control.kind === "bool") return (input as HTMLInputElement).checked;
  if (control.kind === "choice") return input.value;
  if (control.kind === "texts") return input.value.split("\n").filter((line) => line.trim());
  return input.value === "" ? control.default : Number(input.value);
}
