// The run of one answer, shown below it in a live view.
//
// Python keeps which run is shown, so it is still shown after a reload. A page that cannot show a
// widget inside another shows Python's static view: HTML with all text escaped, in a shadow root so
// that its styles apply only to it.

import { el, setText } from "../widget/dom";
import type { WidgetHost } from "../widget/host";
import { Nested } from "./nested";
import type { ChatStore } from "./store";

export class RunPanel {
  readonly node = el("section", "oj-run");
  private readonly note = el("div", "oj-facts");
  private readonly staticView = el("div", "");
  private readonly nested: Nested;
  /** The runs whose static view was requested, and is shown. */
  private requested = 0;
  private staticShown = 0;

  constructor(
    private readonly store: ChatStore,
    host: WidgetHost | undefined,
    signal: AbortSignal,
  ) {
    const place = el("div", "");
    this.staticView.attachShadow({ mode: "open" });
    this.node.append(this.note, place);
    this.nested = new Nested(place, host, () => this.requestStaticView(), signal);
  }

  /** Draw the run into its message, or remove it; true if it was just added. */
  draw(parent: HTMLElement | undefined): boolean {
    const { run, note } = this.store.runShown;
    if (!parent) {
      this.node.remove();
      return false;
    }
    const moved = this.node.parentNode !== parent;
    if (moved) parent.append(this.node);
    this.node.setAttribute("aria-label", `Run ${run}`);
    setText(this.note, note || "Loading the run…");
    this.note.hidden = !note && typeof this.store.get("run_view") === "string";
    this.nested.show(note ? null : this.store.get("run_view"));
    const { html } = this.store;
    if (html?.run === run && this.staticShown !== run) {
      this.staticShown = run;
      this.staticView.shadowRoot!.innerHTML = html.text;
    }
    return moved;
  }

  private requestStaticView(): HTMLElement {
    const { run } = this.store.runShown;
    if (this.requested !== run) this.store.send({ type: "run", run, html: true });
    this.requested = run;
    return this.staticView;
  }
}
