// Two runs side by side as a widget: the entry of compare.js.
//
// The runs are two run views, which this widget refers to. It needs their models, and so a page whose
// manager of widgets finds them: every page of ipywidgets does.

import { CompareView } from "./compare/view";
import { RunStore } from "./live/store";
import { el } from "./widget/dom";
import { type Finds, idOf, type Model } from "./widget/host";
import { lifecycle } from "./widget/lifecycle";
import { hideSaved, SavedView } from "./widget/saved";

const CANNOT = "This page cannot show two runs side by side. Show each with run.view().";

class PairStore {
  readonly saved: SavedView;
  readonly stores: Promise<[RunStore, RunStore]>;

  constructor(readonly model: Model) {
    this.saved = new SavedView(model);
    const find = async (trait: string) => {
      const id = idOf(model.get(trait));
      const store = new RunStore(await (model.widget_manager as Finds).get_model(id));
      store.noBranch = "Show this run by itself, run.view(), to go on from here.";
      return store;
    };
    this.stores = Promise.all([find("one"), find("other")]);
    this.stores.catch(() => {}); // each view says so
  }

  close(): void {
    this.saved.close();
    this.stores.then(
      (stores) => {
        for (const store of stores) store.close();
      },
      () => {},
    );
  }
}

export default lifecycle(
  (model) => new PairStore(model),
  (pair, parent, signal) => {
    hideSaved(pair.saved.name, signal);
    pair.stores.then(
      (stores) => {
        if (signal.aborted) return;
        new CompareView(stores, pair.model.get("names") as [string, string], parent, signal);
      },
      () => parent.append(el("div", "oj-root", {}, CANNOT)),
    );
  },
);
