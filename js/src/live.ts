// The run view as a widget: the entry of live.js.

import { RunStore } from "./live/store";
import { RunView } from "./live/view";
import { lifecycle } from "./widget/lifecycle";
import { hideSaved } from "./widget/saved";

export default lifecycle(
  (model) => new RunStore(model),
  (store, el, signal) => {
    hideSaved(store.saved.name, signal);
    new RunView(store, el, signal);
  },
);
