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
