// Parts of a widget that few pages need: modules that Python sends when one is first needed.
//
// A module comes as text in a message and is imported from a blob, as anywidget imports the widget
// itself, so that it works in every host and fetches nothing. Where it cannot be imported the widget
// goes on without that part.

import type { Model } from "./host";

/** What a module's text calls another of our modules. */
const IMPORTED = /"\.\/([\w-]+)\.js"/g;

interface ModuleText {
  type?: string;
  name?: string;
  text?: string;
}

export class Modules {
  /** How many modules have arrived: what was drawn with fewer of them is drawn again. */
  count = 0;
  readonly #loaded = new Map<string, unknown>();
  readonly #waiting = new Map<string, (text: string) => void>();

  /** `changed` is called when a module has arrived. */
  constructor(
    private readonly model: Model,
    private readonly changed: () => void,
  ) {
    model.on("msg:custom", this.#onMessage as never);
  }

  close(): void {
    this.model.off("msg:custom", this.#onMessage as never);
  }

  /** What a module exports; undefined until it has arrived, and where it cannot be imported. */
  get<Exports>(name: string): Exports | undefined {
    if (!this.#loaded.has(name)) {
      this.#loaded.set(name, undefined);
      void this.#load(name);
    }
    return this.#loaded.get(name) as Exports | undefined;
  }

  async #load(name: string): Promise<void> {
    const urls: string[] = [];
    try {
      const url = await this.#urlOf(name, urls);
      this.#loaded.set(name, await import(/* @vite-ignore */ url));
      this.count += 1;
      this.changed();
    } catch {
      // The page forbids it.
    } finally {
      urls.forEach(URL.revokeObjectURL);
    }
  }

  /** The address of a module, whose text names the addresses of those that it imports. */
  async #urlOf(name: string, urls: string[]): Promise<string> {
    let text = await this.#request(name);
    for (const [spec, other] of text.matchAll(IMPORTED))
      text = text.replace(spec, `"${await this.#urlOf(other, urls)}"`);
    const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    urls.push(url);
    return url;
  }

  #request(name: string): Promise<string> {
    return new Promise((arrived) => {
      this.#waiting.set(name, arrived);
      this.model.send({ type: "module", name });
    });
  }

  readonly #onMessage = ({ type, name = "", text = "" }: ModuleText): void => {
    if (type === "module") this.#waiting.get(name)?.(text);
  };
}
