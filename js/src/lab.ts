// A JupyterLab extension: the cell of `%%outlier` is a prompt, so it is shown as text, not as Python.
//
// JupyterLab loads it when a page opens, without a build, as a module federation container: `init`
// is given the libraries of the page, `get` returns the plugin. It uses the notebook tracker alone.

interface Signal<Sender, Args> {
  connect(slot: (sender: Sender, args: Args) => void): void;
}

/** What is used of a cell's model. */
export interface CellModel {
  readonly type: string;
  readonly sharedModel: { getSource(): string };
  readonly contentChanged: Signal<CellModel, unknown>;
  readonly mimeTypeChanged: Signal<CellModel, unknown>;
  mimeType: string;
}

interface Cells extends Iterable<CellModel> {
  readonly changed: Signal<Cells, unknown>;
}

interface Notebook {
  readonly model: { readonly cells: Cells } | null;
  readonly modelChanged: Signal<Notebook, unknown>;
}

interface Tracker {
  forEach(each: (panel: { content: Notebook }) => void): void;
  readonly widgetAdded: Signal<Tracker, { content: Notebook }>;
}

type Library = { get(): Promise<() => Record<string, unknown>> };
type Scope = Record<string, Record<string, Library>>;

const PROMPT = /^\s*%%outlier(\s|$)/;
const TEXT = "text/plain";

const usual = new WeakMap<CellModel, string>();

/** Have a cell's editor take it for text while it is a prompt, and for what it was when it is not. */
export function mark(cell: CellModel): void {
  const prompt = PROMPT.test(cell.sharedModel.getSource());
  if (cell.mimeType !== TEXT) {
    usual.set(cell, cell.mimeType);
  }
  const wanted = prompt ? TEXT : (usual.get(cell) ?? cell.mimeType);
  if (cell.mimeType !== wanted) {
    cell.mimeType = wanted;
  }
}

function follow(cell: CellModel): void {
  if (cell.type === "code" && !usual.has(cell)) {
    usual.set(cell, cell.mimeType);
    cell.contentChanged.connect(mark);
    cell.mimeTypeChanged.connect(mark);
    mark(cell);
  }
}

function attend(notebook: Notebook): void {
  const all = () => {
    for (const cell of notebook.model?.cells ?? []) {
      follow(cell);
    }
  };
  const begin = () => {
    notebook.model?.cells.changed.connect(all);
    all();
  };
  notebook.modelChanged.connect(begin);
  begin();
}

function activate(_app: unknown, tracker: Tracker): void {
  tracker.forEach((panel) => {
    attend(panel.content);
  });
  tracker.widgetAdded.connect((_, panel) => attend(panel.content));
}

let shared: Scope = {};

async function plugin(): Promise<() => unknown> {
  const versions = Object.values(shared["@jupyterlab/notebook"] ?? {});
  const notebook = await versions[0]?.get();
  const token = notebook?.().INotebookTracker;
  const found = {
    id: "outlier_jupyter:prompts",
    autoStart: true,
    requires: token ? [token] : [],
    activate: token ? activate : () => undefined,
  };
  return () => ({ __esModule: true, default: found });
}

const page = globalThis as { _JUPYTERLAB?: Record<string, unknown> };
page._JUPYTERLAB ??= {};
page._JUPYTERLAB.outlier_jupyter = {
  init: (scope: Scope) => {
    shared = scope;
  },
  get: () => plugin(),
};
