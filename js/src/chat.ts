// The chat as a widget.

import type { Host } from "./chat/nested";
import { ChatStore } from "./chat/store";
import { ChatView } from "./chat/view";
import { door } from "./widget/lifecycle";

export default door<ChatStore, Host>(
  (model) => new ChatStore(model),
  (store, el, signal, host) => void new ChatView(store, el, signal, host),
);
