// The transcript that the notebook saves for when there is no kernel: another output of the same
// cell. It is hidden beside a live widget, which shows the same messages.

/** Hide the transcript until `signal` aborts. Call this again after each redraw: it may be new. */
export function hideSaved(name: string, signal: AbortSignal): void {
  if (!name || signal.aborted) return;
  for (const each of document.getElementsByClassName(name)) {
    if (!(each instanceof HTMLElement) || each.hidden) continue;
    each.hidden = true;
    signal.addEventListener("abort", () => {
      each.hidden = false;
    });
  }
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

/**
 * Whether a transcript of the chat `name` in the notebook lacks this `stamp`: a page that was
 * reloaded no longer receives updates of outputs.
 */
export function isBehind(manager: unknown, name: string, stamp: string): boolean {
  return savedOutputs(manager, name).some(({ html }) => !html.includes(stamp));
}

/** Replace all transcripts of the chat `name` by `data`. */
export function replaceSaved(manager: unknown, name: string, data: object): void {
  for (const { outputs, index } of savedOutputs(manager, name))
    outputs.set(index, { output_type: "display_data", data, metadata: {} });
}

function savedOutputs(manager: unknown, name: string) {
  const found: { outputs: Outputs; index: number; html: string }[] = [];
  const cells = (manager as Manager | undefined)?.context?.model?.cells;
  if (!name) return found;
  for (let cell = 0; cell < (cells?.length ?? 0); cell++) {
    const { outputs } = cells!.get(cell);
    for (let index = 0; index < (outputs?.length ?? 0); index++) {
      const html = String(outputs!.get(index).data["text/html"] ?? "");
      if (html.includes(`oj-transcript ${name}"`)) found.push({ outputs: outputs!, index, html });
    }
  }
  return found;
}
