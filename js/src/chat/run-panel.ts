// The run of one answer, docked beside or below the conversation.
//
// Python keeps which run is shown, so it is still shown after a reload. A page that cannot show a
// widget inside another shows Python's static view: HTML with all text escaped, in a shadow root so
// that its styles apply only to it.

import { el, setText } from "../widget/dom";
import type { WidgetHost } from "../widget/host";
import { button } from "./button";
import { Nested } from "./nested";
import type { ChatStore } from "./store";

export class RunPanel {
  readonly node = el("section", "oj-run");
  readonly #name = el("strong", "");
  readonly #note = el("div", "oj-facts");
  readonly #staticView = el("div", "");
  readonly #nested: Nested;
  /** The runs whose static view was requested, and is shown. */
  #requested = 0;
  #staticShown = 0;

  constructor(
    private readonly store: ChatStore,
    host: WidgetHost | undefined,
    signal: AbortSignal,
  ) {
    const place = el("div", "");
    this.#staticView.attachShadow({ mode: "open" });
    const close = button("Close", "Close this run", () => store.send({ type: "run", run: 0 }));
    this.node.append(el("div", "oj-run-head", {}, this.#name, close), this.#note, place);
    this.#nested = new Nested(place, host, () => this.#requestStaticView(), signal);
  }

  /** Draw the run, or hide it and remove its view. */
  draw(open: boolean): void {
    const { run, note } = this.store.runShown;
    this.node.hidden = !open;
    if (!open) {
      this.#nested.show(null);
      return;
    }
    setText(this.#name, `Run ${run}`);
    this.node.setAttribute("aria-label", `Run ${run}`);
    setText(this.#note, note || "Loading the run…");
    this.#note.hidden = !note && typeof this.store.get("run_view") === "string";
    this.#nested.show(note ? null : this.store.get("run_view"));
    const { html } = this.store;
    if (html?.run === run && this.#staticShown !== run) {
      this.#staticShown = run;
      this.#staticView.shadowRoot!.innerHTML = html.text;
    }
  }

  #requestStaticView(): HTMLElement {
    const { run } = this.store.runShown;
    if (this.#requested !== run) this.store.send({ type: "run", run, html: true });
    this.#requested = run;
    return this.#staticView;
  }
}
