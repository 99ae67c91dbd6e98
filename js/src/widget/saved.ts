// The static view that a widget leaves in the saved notebook for when there is no kernel: another
// output of the same cell. It is hidden while the widget lives, which shows the same and more.

import type { Model } from "./host";

/** Several messages about one change arrive within this time. */
const SETTLE_MS = 300;

/** Hide the saved views of the widget `name`, also future ones, until `signal` aborts. */
export function hideSaved(name: string, signal: AbortSignal): void {
  if (!name || signal.aborted) return;
  // A style sheet: the page may redraw an output, or add it, at any time.
  const sheet = new CSSStyleSheet();
  const saved = `.${CSS.escape(name)}`;
  sheet.insertRule(`${saved} { display: none !important }`);
  // JupyterLab's row of the output, which has a margin.
  sheet.insertRule(`.jp-OutputArea-child:has(> * > ${saved}) { display: none !important }`);
  const sheets = document.adoptedStyleSheets;
  sheets.push(sheet);
  signal.addEventListener("abort", () => {
    const at = sheets.indexOf(sheet);
    if (at >= 0) sheets.splice(at, 1);
  });
}

/**
 * Keeps the saved view up to date on a page that was reloaded, and no longer receives updates of
 * outputs: the widget requests it.
 */
export class SavedView {
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly model: Model) {
    model.on("change:saved", this.#onSaved);
    model.on("msg:custom", this.#onMessage as never);
    this.#onSaved();
  }

  /** The class of the saved view, unique to this widget. */
  get name(): string {
    return String(this.model.get("view_id") ?? "");
  }

  close(): void {
    clearTimeout(this.#timer);
    this.model.off("change:saved", this.#onSaved);
    this.model.off("msg:custom", this.#onMessage as never);
  }

  /** Python updates the output before this trait. If this page missed the update, request it. */
  readonly #onSaved = (): void => {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const stamp = String(this.model.get("saved") ?? "");
      const outputs = savedOutputs(this.model.widget_manager, this.name);
      if (outputs.some(({ html }) => !html.includes(stamp))) this.model.send({ type: "saved" });
    }, SETTLE_MS);
  };

  readonly #onMessage = (content: { type?: string; data?: object }): void => {
    if (content?.type !== "saved" || !content.data) return;
    const { data } = content;
    for (const { outputs, index } of savedOutputs(this.model.widget_manager, this.name))
      outputs.set(index, { output_type: "display_data", data, metadata: {} });
  };
}

interface Output {
  data: Record<string, unknown>;
}

interface Outputs {
  length: number;
  get(index: number): Output;
  set(index: number, output: object): void;
}

/** The path from JupyterLab's widget manager to the notebook's cells. */
interface Manager {
  context?: {
    model?: { cells?: { length: number; get(index: number): { outputs?: Outputs } } };
  };
}

function savedOutputs(manager: unknown, name: string) {
  const found: { outputs: Outputs; index: number; html: string }[] = [];
  const cells = (manager as Manager | undefined)?.context?.model?.cells;
  if (!name) return found;
  for (let cell = 0; cell < (cells?.length ?? 0); cell++) {
    const { outputs } = cells!.get(cell);
    for (let index = 0; index < (outputs?.length ?? 0); index++) {
      const html = String(outputs!.get(index).data?.["text/html"] ?? "");
      if (html.includes(`oj-saved ${name}"`)) found.push({ outputs: outputs!, index, html });
    }
  }
  return found;
}
