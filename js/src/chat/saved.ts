// What the notebook keeps of the chat for when there is no kernel: another output of the same cell.
// Beside a living widget it would say everything twice.

/** Hide it while `signal` lasts; call it again when it may have been drawn anew. */
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

/** As much of JupyterLab's manager of widgets as leads to the notebook's cells. */
interface Manager {
  context?: {
    model?: { cells?: { length: number; get(index: number): { outputs?: Outputs } } };
  };
}

/**
 * Whether the notebook on this page has such an output, of the chat called `name`, that is not the
 * one with this `stamp`: a page that was reloaded does not hear of updates any more.
 */
export function isBehind(manager: unknown, name: string, stamp: string): boolean {
  return savedOutputs(manager, name).some(({ html }) => !html.includes(stamp));
}

/** Put `data` in all outputs of the chat called `name`. */
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
