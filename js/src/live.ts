// The run view as a widget.

import { door } from "./door";
import { Store } from "./store";
import { View } from "./view";

export default door(
  (model) => new Store(model),
  (store, el, signal) => void new View(store, el, signal),
);
