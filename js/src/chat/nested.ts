// A widget of its own, shown inside the chat's: the live view of a run.

import { el } from "../widget/dom";

/** What anywidget offers a widget that shows others. */
export interface Host {
  getWidget(ref: string): Promise<{
    render(context: { el: HTMLElement; signal: AbortSignal }): Promise<void>;
  }>;
}

export class Nested {
  private shown: unknown = null;
  private rendered: AbortController | null = null;

  /** `failed` says what stands in its place where the page cannot show a widget in another. */
  constructor(
    private readonly place: HTMLElement,
    private readonly host: Host | undefined,
    private readonly failed: () => Node,
    signal: AbortSignal,
  ) {
    signal.addEventListener("abort", () => this.rendered?.abort());
  }

  /** Show the widget that a trait refers to; null takes away what was there. */
  show(ref: unknown): void {
    if (ref === this.shown) return;
    this.shown = ref;
    this.rendered?.abort();
    if (typeof ref !== "string") this.place.replaceChildren();
    else void this.render(ref.replace(/^IPY_MODEL_/, "anywidget:")); // ipywidgets' → anywidget's
  }

  private async render(ref: string): Promise<void> {
    const controller = new AbortController();
    this.rendered = controller;
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
