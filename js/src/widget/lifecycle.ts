// What anywidget calls, for any of our widgets.
//
// A model's state outlives its views, so that a view made late, or twice, shows all of it. It is
// kept per model, by the id that Python gave it: some hosts evaluate a module once for all.

import type { Model } from "./host";

interface Context<Host> {
  model: Model;
  signal?: AbortSignal;
  host?: Host;
}

/** A widget whose state is made by `open` and whose views are made by `show`, until `signal` aborts. */
export function door<Store extends { close(): void }, Host = unknown>(
  open: (model: Model) => Store,
  show: (store: Store, el: HTMLElement, signal: AbortSignal, host?: Host) => void,
) {
  return () => {
    const stores = new Map<string, Store>();
    const idOf = (model: Model) => String(model.get("view_id"));

    const storeOf = (model: Model): Store => {
      const store = stores.get(idOf(model)) ?? open(model);
      stores.set(idOf(model), store);
      return store;
    };

    return {
      initialize({ model }: Context<Host>) {
        const [store, id] = [storeOf(model), idOf(model)];
        return () => {
          store.close();
          stores.delete(id);
        };
      },

      render({ model, el, signal, host }: Context<Host> & { el: HTMLElement }) {
        const controller = new AbortController();
        signal?.addEventListener("abort", () => controller.abort());
        show(storeOf(model), el, controller.signal, host);
        return () => controller.abort();
      },
    };
  };
}
