// A widget's model on a page without a kernel: its traits never change, and of its questions those
// are answered whose answers the page has.

import type { Model } from "./host";

/** What Python says about a subject; a kernel sends the same. */
interface FixedAnswer {
  about: unknown;
}

type Listener = (content: unknown, buffers?: DataView[]) => void;

export class FixedModel implements Model {
  readonly #answers: Map<string, FixedAnswer>;
  readonly #listeners = new Set<Listener>();

  constructor(
    private readonly traits: Readonly<Record<string, unknown>>,
    answers: readonly FixedAnswer[] = [],
    private orders: { message: unknown; buffer: DataView } | null = null,
  ) {
    this.#answers = new Map(answers.map((answer) => [JSON.stringify(answer.about), answer]));
  }

  get(name: string): unknown {
    return this.traits[name];
  }

  on(event: string, callback: (...args: never[]) => void): void {
    if (event === "msg:custom") this.#listeners.add(callback as Listener);
  }

  off(event: string, callback?: (...args: never[]) => void): void {
    if (event === "msg:custom") this.#listeners.delete(callback as Listener);
  }

  send(content: unknown): void {
    const { type, about } = content as { type?: string; about?: { order?: number } };
    if (type !== "ask") return;
    if (about?.order !== undefined) {
      const { orders } = this;
      this.orders = null; // all at once
      if (orders) this.#tell(orders.message, [orders.buffer]);
      return;
    }
    const answer = this.#answers.get(JSON.stringify(about));
    if (answer) this.#tell({ type: "told", ...answer });
  }

  /** Answer later, as a kernel does. */
  #tell(content: unknown, buffers?: DataView[]): void {
    queueMicrotask(() => {
      for (const listener of this.#listeners) listener(content, buffers);
    });
  }
}
