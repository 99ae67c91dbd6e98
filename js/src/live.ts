// The run view as a widget: the entry of live.js.

import { RunStore } from "./live/store";
import { RunView } from "./live/view";
import { lifecycle } from "./widget/lifecycle";

export default lifecycle(
  (model) => new RunStore(model),
  (store, el, signal) => void new RunView(store, el, signal),
);
