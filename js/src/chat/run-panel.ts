// The run behind one answer, shown under it: the live view, finished, to look into and replay.
//
// Python says which run it is, so that it is still there after a reload. Where the page cannot show
// a widget in another, Python's own static view takes its place: HTML in which all text is escaped,
// in a shadow root so that its style stays with it.

import { el, setText } from "../widget/dom";
import { type Host, Nested } from "./nested";
import type { ChatStore } from "./store";

export class RunPanel {
  readonly node = el("section", "oj-run");
  private readonly note = el("div", "oj-facts");
  private readonly plain = el("div", "");
  private readonly nested: Nested;
  private asked = 0;
  private pictured = 0;

  constructor(
    private readonly store: ChatStore,
    host: Host | undefined,
    signal: AbortSignal,
  ) {
    const place = el("div", "");
    this.plain.attachShadow({ mode: "open" });
    this.node.append(this.note, place);
    this.nested = new Nested(place, host, () => this.askForHtml(), signal);
  }

  /** Draw it into the message it belongs to, or nowhere; true when it has just come there. */
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
    if (html?.run === run && this.pictured !== run) {
      this.pictured = run;
      this.plain.shadowRoot!.innerHTML = html.text;
    }
    return moved;
  }

  private askForHtml(): HTMLElement {
    const { run } = this.store.runShown;
    if (this.asked !== run) this.store.send({ type: "run", run, html: true });
    this.asked = run;
    return this.plain;
  }
}
