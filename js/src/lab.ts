// A JupyterLab extension: shows the cell of `%%outlier`, which is a prompt, as text and not as
// Python.
//
// JupyterLab loads it when a page opens, without a build, as a module federation container: it
// passes the page's libraries to `init`, and `get` returns the plugin. It uses only the notebook
// tracker.

interface Signal<Sender, Args> {
  connect(slot: (sender: Sender, args: Args) => void): void;
}

/** The part of a cell's model that is used. */
export interface CellModel {
  readonly type: string;
  readonly sharedModel: { getSource(): string };
  readonly contentChanged: Signal<CellModel, unknown>;
  readonly mimeTypeChanged: Signal<CellModel, unknown>;
  mimeType: string;
}

interface CellList extends Iterable<CellModel> {
  readonly changed: Signal<CellList, unknown>;
}

interface Notebook {
  readonly model: { readonly cells: CellList } | null;
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

/** The type that each cell has while it is no prompt. */
const usualType = new WeakMap<CellModel, string>();

/** Set a cell's type: text while it is a prompt, its usual type otherwise. */
export function mark(cell: CellModel): void {
  const prompt = PROMPT.test(cell.sharedModel.getSource());
  if (cell.mimeType !== TEXT) {
    usualType.set(cell, cell.mimeType);
  }
  const wanted = prompt ? TEXT : (usualType.get(cell) ?? cell.mimeType);
  if (cell.mimeType !== wanted) {
    cell.mimeType = wanted;
  }
}

function followCell(cell: CellModel): void {
  if (cell.type === "code" && !usualType.has(cell)) {
    usualType.set(cell, cell.mimeType);
    cell.contentChanged.connect(mark);
    cell.mimeTypeChanged.connect(mark);
    mark(cell);
  }
}

/** Follow all cells of a notebook, now and later. */
function followNotebook(notebook: Notebook): void {
  const all = () => {
    for (const cell of notebook.model?.cells ?? []) {
      followCell(cell);
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
    followNotebook(panel.content);
  });
  tracker.widgetAdded.connect((_, panel) => followNotebook(panel.content));
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
