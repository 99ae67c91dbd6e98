// The buttons of a panel over the token axis: a logarithmic scale, and all tokens after a zoom.

import type { Zoom } from "../../charts/zoom";
import { el } from "../../widget/dom";

export class AxisTools {
  readonly node: HTMLElement;
  /** Whether the vertical axes are logarithmic. */
  log = false;
  readonly #all = el("button", "oj-button", { type: "button" }, "All tokens");

  /** `title` is the panel's. */
  constructor(
    title: string,
    private readonly zoom: Zoom,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const attributes = { type: "button", "aria-pressed": "false" };
    const log = el("button", "oj-button oj-log-scale", attributes, "Log");
    log.setAttribute("aria-label", `${title}: Log, a logarithmic scale`);
    log.addEventListener(
      "click",
      () => {
        this.log = !this.log;
        log.setAttribute("aria-pressed", String(this.log));
        changed();
      },
      { signal },
    );
    this.#all.setAttribute("aria-label", `${title}: show all tokens`);
    this.#all.title = "End the zoom (double click or 0 in a plot). Drag over a plot to zoom.";
    this.#all.addEventListener("click", () => zoom.reset(), { signal });
    this.#all.hidden = true;
    this.node = el("span", "oj-axis-tools", {}, this.#all, log);
  }

  draw(): void {
    this.#all.hidden = !this.zoom.active;
  }
}
