// The functions that anywidget calls on a widget: initialize and render.
//
// A model has one store for all its views, so a view made late, or a second one, shows the whole
// state. Stores are found by the view id that Python sets, because some hosts evaluate a module
// once for all models.

import type { Model, WidgetHost } from "./host";

interface Context {
  model: Model;
  signal?: AbortSignal;
  host?: WidgetHost;
}

/** A widget. `open` makes a model's store; `show` adds a view to `el` until `signal` aborts. */
export function lifecycle<Store extends { close(): void }>(
  open: (model: Model) => Store,
  show: (store: Store, el: HTMLElement, signal: AbortSignal, host?: WidgetHost) => void,
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
      initialize({ model }: Context) {
        const [store, id] = [storeOf(model), idOf(model)];
        return () => {
          store.close();
          stores.delete(id);
        };
      },

      render({ model, el, signal, host }: Context & { el: HTMLElement }) {
        const controller = new AbortController();
        signal?.addEventListener("abort", () => controller.abort());
        show(storeOf(model), el, controller.signal, host);
        return () => controller.abort();
      },
    };
  };
}
