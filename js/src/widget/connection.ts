// Tells whether the Python half of a widget still exists.
//
// A model reports that its connection to the kernel changed, but not how, and ipywidgets marks only
// its own widgets as disconnected. So after a change the widget requests a message from the kernel
// and counts as disconnected until one arrives.

import type { Model } from "./host";

/** ipywidgets sets this class on its own widgets when the kernel is gone; ours may lie in one. */
const DISCONNECTED = ".jupyter-widgets-disconnected";

export class Connection {
  #open = true;

  /** `request` asks the kernel for any message; `changed` is called when views must redraw. */
  constructor(
    private readonly model: Model,
    private readonly request: () => void,
    private readonly changed: () => void,
  ) {
    model.on("comm_live_update", this.#onChange);
    model.on("msg:custom", this.#onMessage);
  }

  close(): void {
    this.model.off("comm_live_update", this.#onChange);
    this.model.off("msg:custom", this.#onMessage);
  }

  /** Whether the controls in `view` can reach Python. */
  isOpen(view: Element): boolean {
    return this.#open && !view.closest(DISCONNECTED);
  }

  readonly #onChange = (): void => {
    this.#open = false;
    this.request();
    this.changed();
  };

  readonly #onMessage = (): void => {
    if (this.#open) return;
    this.#open = true;
    this.changed();
  };
}
