// The widget's door: what anywidget calls.
//
// A model's state outlives its views, so that a view made late, or twice, shows the whole run. It
// is kept per model, by the id that Python gave it: some hosts evaluate this module once for all.

import type { Model } from "./host";
import { Store } from "./store";
import { View } from "./view";

interface Context {
  model: Model;
  signal?: AbortSignal;
}

export default () => {
  const stores = new Map<string, Store>();

  const storeOf = (model: Model): Store => {
    const id = String(model.get("view_id"));
    const store = stores.get(id) ?? new Store(model);
    stores.set(id, store);
    return store;
  };

  return {
    initialize({ model }: Context) {
      const store = storeOf(model);
      const id = String(model.get("view_id"));
      return () => {
        store.close();
        stores.delete(id);
      };
    },

    render({ model, el, signal }: Context & { el: HTMLElement }) {
      const controller = new AbortController();
      signal?.addEventListener("abort", () => controller.abort());
      new View(storeOf(model), el, controller.signal);
      return () => controller.abort();
    },
  };
};
