// Whether the Python half of a widget is still there.
//
// A model is told that its connection to the kernel has changed, but not in which way, and the mark
// that ipywidgets puts on the views of its own widgets is missing on others. So after a change the
// kernel is asked for something, and until it answers it is taken to be gone.

import type { Model } from "./host";

/** ipywidgets puts this class on its own widgets, ours may lie inside, when the kernel is gone. */
const DISCONNECTED = ".jupyter-widgets-disconnected";

export class Lifeline {
  private connected = true;

  /** `ask` has the kernel send a message, if there is one; `changed` when views should redraw. */
  constructor(
    private readonly model: Model,
    private readonly ask: () => void,
    private readonly changed: () => void,
  ) {
    model.on("comm_live_update", this.onChange);
    model.on("msg:custom", this.onMessage);
  }

  close(): void {
    this.model.off("comm_live_update", this.onChange);
    this.model.off("msg:custom", this.onMessage);
  }

  /** Whether what is shown in `view` can still be used. */
  holds(view: Element): boolean {
    return this.connected && !view.closest(DISCONNECTED);
  }

  private readonly onChange = (): void => {
    this.connected = false;
    this.ask();
    this.changed();
  };

  private readonly onMessage = (): void => {
    if (this.connected) return;
    this.connected = true;
    this.changed();
  };
}
