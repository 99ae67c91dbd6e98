// Shows another widget, the live view of a run, inside the chat.

import { el } from "../widget/dom";
import type { WidgetHost } from "../widget/host";

export class Nested {
  #shown: unknown = null;
  #rendered: AbortController | null = null;

  /** `failed` returns a substitute for pages that cannot show a widget inside another. */
  constructor(
    private readonly place: HTMLElement,
    private readonly host: WidgetHost | undefined,
    private readonly failed: () => Node,
    signal: AbortSignal,
  ) {
    signal.addEventListener("abort", () => this.#rendered?.abort());
  }

  /** Show the widget that a trait refers to; null removes the one shown. */
  show(ref: unknown): void {
    if (ref === this.#shown) return;
    this.#shown = ref;
    this.#rendered?.abort();
    if (typeof ref !== "string") this.place.replaceChildren();
    else void this.#render(ref.replace(/^IPY_MODEL_/, "anywidget:")); // ipywidgets' → anywidget's
  }

  async #render(ref: string): Promise<void> {
    const controller = new AbortController();
    this.#rendered = controller;
    const box = el("div", "");
    try {
      const widget = await this.host!.getWidget(ref);
      await widget.render({ el: box, signal: controller.signal });
      if (!controller.signal.aborted) this.place.replaceChildren(box);
    } catch {
      if (!controller.signal.aborted) this.place.replaceChildren(this.failed());
    }
  }
}
