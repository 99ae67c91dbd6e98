// The live view of the current run, below the messages.

import { el } from "../widget/dom";
import type { WidgetHost } from "../widget/host";
import { Nested } from "./nested";
import type { ChatStore } from "./store";

const HINT =
  "The next answer is shown here while it is written. Run, below an answer, shows that one.";
const CANNOT = "This page cannot show a widget inside another. Use display(chat.live).";

export class LivePanel {
  readonly node = el("section", "oj-watch", { "aria-label": "Live run view" });
  readonly #hint = el("div", "oj-facts", {}, HINT);
  /** Tells the view from that of an answer's run, where both are shown. */
  readonly #name = el("strong", "", {}, "Latest answer");
  readonly #nested: Nested;

  constructor(
    private readonly store: ChatStore,
    host: WidgetHost | undefined,
    signal: AbortSignal,
  ) {
    const place = el("div", "");
    this.node.append(this.#hint, this.#name, place);
    this.#nested = new Nested(place, host, () => el("div", "oj-facts", {}, CANNOT), signal);
  }

  draw(): void {
    this.node.hidden = this.store.get("watch") !== true;
    if (this.node.hidden) return;
    const live = this.store.get("live");
    const [some, run] = [typeof live === "string", this.store.runShown.run > 0];
    this.#hint.hidden = some || run;
    this.#name.hidden = !(some && run);
    this.#nested.show(live);
  }
}
