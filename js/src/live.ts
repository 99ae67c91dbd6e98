// The run view as a widget.

import { door } from "./widget/lifecycle";
import { Store } from "./live/store";
import { View } from "./live/view";

export default door(
  (model) => new Store(model),
  (store, el, signal) => void new View(store, el, signal),
);
