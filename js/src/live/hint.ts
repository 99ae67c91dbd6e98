// A first-time hint, shown once in a browser, until the playhead is moved or the hint is closed.

import { el } from "../widget/dom";

/** What can be done; the explanation says it too while nothing is explained. */
export const HINT =
  "Click a word, or a token’s bar in Time, to see what it waited for. ←\u00a0→\u00a0move.";

const KEY = "outlier_jupyter.hint";

export class Hint {
  readonly node: HTMLElement;
  #seen = remembered();

  constructor(changed: () => void, signal: AbortSignal) {
    const close = el("button", "oj-button oj-hint-close", { type: "button" }, "Got it");
    this.node = el("div", "oj-first-hint", { role: "note" }, el("span", "", {}, HINT), close);
    this.node.hidden = true;
    const closed = () => {
      this.#done();
      changed();
    };
    close.addEventListener("click", closed, { signal });
  }

  /** Show the hint once there are tokens to click; `moved` says that it is no longer needed. */
  draw(tokens: number, moved: boolean): void {
    if (moved && !this.node.hidden) this.#done();
    this.node.hidden = this.#seen || tokens === 0;
  }

  #done(): void {
    this.#seen = true;
    this.node.hidden = true;
    remember();
  }
}

/** Whether the hint was seen; a page may refuse storage. */
function remembered(): boolean {
  try {
    return localStorage.getItem(KEY) !== null;
  } catch {
    return false;
  }
}

function remember(): void {
  try {
    localStorage.setItem(KEY, "seen");
  } catch {
    // The hint comes again with the next view.
  }
}
