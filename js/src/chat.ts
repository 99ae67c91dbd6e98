// The chat as a widget: the entry of chat.js.

import { ChatStore } from "./chat/store";
import { ChatView } from "./chat/view";
import { lifecycle } from "./widget/lifecycle";

export default lifecycle(
  (model) => new ChatStore(model),
  (store, el, signal, host) => void new ChatView(store, el, signal, host),
);
