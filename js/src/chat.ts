// The chat's door: what anywidget calls.
//
// As in live.ts, a model's state outlives its views and is kept by the id that Python gave it.

import type { Host } from "./chat/nested";
import { ChatStore } from "./chat/store";
import { ChatView } from "./chat/view";
import type { Model } from "./host";

interface Context {
  model: Model;
  signal?: AbortSignal;
  host?: Host;
}

export default () => {
  const stores = new Map<string, ChatStore>();

  const storeOf = (model: Model): ChatStore => {
    const id = String(model.get("view_id"));
    const store = stores.get(id) ?? new ChatStore(model);
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

    render({ model, el, signal, host }: Context & { el: HTMLElement }) {
      const controller = new AbortController();
      signal?.addEventListener("abort", () => controller.abort());
      new ChatView(storeOf(model), el, controller.signal, host);
      return () => controller.abort();
    },
  };
};
