// The live view of the current run, below the messages.

import { el } from "../widget/dom";
import type { WidgetHost } from "../widget/host";
import { Nested } from "./nested";
import type { ChatStore } from "./store";

const CANNOT = "This page cannot show a widget inside another. Use display(chat.live).";

export class LivePanel {
  readonly node = el("section", "oj-watch", { "aria-label": "Live run view" });
  readonly #hint = el("div", "oj-facts", {}, "The run view starts with the next answer.");
  readonly #nested: Nested;

  constructor(
    private readonly store: ChatStore,
    host: WidgetHost | undefined,
    signal: AbortSignal,
  ) {
    const place = el("div", "");
    this.node.append(this.#hint, place);
    this.#nested = new Nested(place, host, () => el("div", "oj-facts", {}, CANNOT), signal);
  }

  draw(): void {
    this.node.hidden = this.store.get("watch") !== true;
    if (this.node.hidden) return;
    const live = this.store.get("live");
    this.#hint.hidden = typeof live === "string";
    this.#nested.show(live);
  }
}
