// The run view as a widget: the entry of live.js. Below a run are the runs that went on from one of its tokens with
// another; their models are found as every page of ipywidgets finds them.

import { RunStore } from "./live/store";
import { RunView } from "./live/view";
import { el } from "./widget/dom";
import { type Finds, idOf, type Model } from "./widget/host";
import { lifecycle } from "./widget/lifecycle";
import { hideSaved } from "./widget/saved";

/** Shows the branches of a run in `place`, in their order, each once. */
class Branches {
  readonly #shown = new Set<unknown>();

  constructor(
    private readonly model: Model,
    private readonly place: HTMLElement,
    private readonly signal: AbortSignal,
  ) {
    const changed = () => this.#draw()?.scrollIntoView({ block: "nearest" });
    model.on("change:branches", changed);
    signal.addEventListener("abort", () => model.off("change:branches", changed));
    this.#draw();
  }

  /** Returns the place of the last one that is new. */
  #draw(): HTMLElement | undefined {
    let box: HTMLElement | undefined;
    for (const ref of (this.model.get("branches") ?? []) as string[]) {
      if (this.#shown.has(ref)) continue;
      this.#shown.add(ref);
      const made = this.place.appendChild(el("div", "oj-branch"));
      void this.#add(ref, made).catch(() => made.remove()); // a page without a manager of widgets
      box = made;
    }
    return box;
  }

  async #add(ref: string, box: HTMLElement): Promise<void> {
    const model = await (this.model.widget_manager as Finds).get_model(idOf(ref));
    const store = new RunStore(model);
    this.signal.addEventListener("abort", () => store.close());
    show(store, model, box, this.signal);
  }
}

function show(store: RunStore, model: Model, place: HTMLElement, signal: AbortSignal): void {
  hideSaved(store.saved.name, signal);
  new RunView(store, place, signal);
  new Branches(model, place, signal);
}

export default lifecycle(
  (model) => ({
    model,
    store: new RunStore(model),
    close() {
      this.store.close();
    },
  }),
  ({ model, store }, place, signal) => show(store, model, place, signal),
);
