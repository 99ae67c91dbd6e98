// The parts of anywidget's interface that our widgets use.

/** The browser's half of a widget: its traits, and messages to and from the kernel. */
export interface Model {
  get(name: string): unknown;
  on(event: string, callback: (...args: never[]) => void): void;
  off(event: string, callback?: (...args: never[]) => void): void;
  send(content: unknown, callbacks?: unknown, buffers?: ArrayBuffer[]): void;
  /** The page's manager of widgets, of any kind; JupyterLab's and Notebook's know the notebook. */
  widget_manager?: unknown;
}

/** Lets a widget show another widget. Some pages do not offer it. */
export interface WidgetHost {
  getWidget(ref: string): Promise<{
    render(context: { el: HTMLElement; signal: AbortSignal }): Promise<void>;
  }>;
}

/** A page's manager of widgets that finds models by their ids, as that of ipywidgets does. */
export interface Finds {
  get_model(id: string): Promise<Model>;
}

/** The id of the model that a trait refers to. */
export const idOf = (ref: unknown): string => String(ref).replace(/^(IPY_MODEL_|anywidget:)/, "");
