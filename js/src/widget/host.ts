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
