// The run views of a page that needs no kernel, as a report: the entry of report.js.
//
// Each place on the page has the run's data and a static view. If the data can be shown, the run
// view takes the static one's place; without script, or in an old browser, the static view stays.

import { RunStore } from "./live/store";
import { RunView } from "./live/view";
import { el } from "./widget/dom";
import { FixedModel } from "./widget/fixed-model";
import { unpack } from "./widget/unpack";

/** What Python writes into a place (`page.py`). */
interface Packed {
  /** JSON: the traits `info` and `status`, and the answers to some questions and about orders. */
  run: string;
  /** The trait `snapshot`. */
  snapshot: string;
  /** The buffer of the eviction orders. */
  orders: string;
}

async function show(place: HTMLElement): Promise<void> {
  const packed = JSON.parse(place.querySelector("script")?.textContent ?? "{}") as Packed;
  const { info, status, answers, orders } = JSON.parse(
    new TextDecoder().decode(await unpack(packed.run)),
  );
  const snapshot = new DataView(await unpack(packed.snapshot));
  const buffer = new DataView(await unpack(packed.orders));
  const store = new RunStore(
    new FixedModel({ info, status, snapshot }, answers, { message: orders, buffer }),
  );
  if (store.problem) {
    store.close();
    return;
  }
  const box = el("div", "oj-live");
  place.prepend(box);
  new RunView(store, box, new AbortController().signal);
  place.classList.add("oj-shown"); // hides the static view, but not on paper
}

for (const place of document.querySelectorAll<HTMLElement>(".oj-page")) {
  show(place).catch((error: unknown) => console.warn("The static view stays:", error));
}
