// The live view of the run under way, a widget of its own that is shown inside the chat's.

import { el } from "../dom";
import type { ChatStore } from "./store";

/** What anywidget offers a widget that shows others. */
export interface Host {
  getWidget(ref: string): Promise<{
    render(context: { el: HTMLElement; signal: AbortSignal }): Promise<void>;
  }>;
}

export class LivePanel {
  readonly node = el("section", "oj-watch", { "aria-label": "Live run view" });
  private readonly hint = el("div", "oj-facts", {}, "The run view begins with the next answer.");
  private shown: unknown = null;
  private rendered: AbortController | null = null;

  constructor(
    private readonly store: ChatStore,
    private readonly host: Host | undefined,
    signal: AbortSignal,
  ) {
    this.node.append(this.hint);
    signal.addEventListener("abort", () => this.rendered?.abort());
  }

  draw(): void {
    this.node.hidden = this.store.get("watch") !== true;
    const live = this.store.get("live");
    if (live === this.shown || this.node.hidden || typeof live !== "string") return;
    this.shown = live;
    void this.show(live.replace(/^IPY_MODEL_/, "anywidget:")); // ipywidgets' name → anywidget's
  }

  private async show(ref: string): Promise<void> {
    this.rendered?.abort();
    const controller = new AbortController();
    this.rendered = controller;
    const place = el("div", "");
    try {
      const widget = await this.host!.getWidget(ref);
      await widget.render({ el: place, signal: controller.signal });
      if (!controller.signal.aborted) this.node.replaceChildren(place);
    } catch {
      this.hint.textContent = "This page cannot show one widget in another: display(chat.live).";
      this.node.replaceChildren(this.hint);
    }
  }
}
