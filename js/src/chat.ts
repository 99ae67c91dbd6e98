// The chat as a widget: the entry of chat.js.

import { ChatStore } from "./chat/store";
import { ChatView } from "./chat/view";
import { lifecycle } from "./widget/lifecycle";
import { hideSaved } from "./widget/saved";

export default lifecycle(
  (model) => new ChatStore(model),
  (store, el, signal, host) => {
    hideSaved(store.saved.name, signal);
    new ChatView(store, el, signal, host);
  },
);
