// Stops a run.
//
// While a cell runs, most kernels do not read a widget's messages until the cell ends. The Jupyter
// server can interrupt the kernel, and accepts that request from a page it served. Without such a
// server the widget sends a message, and the caller tells the user how to interrupt by hand.

import { interrupt } from "./server";

const REPEAT_MS = 1000;
const MAX_REQUESTS = 20;

/**
 * Call `send` now and once a second while `needed`, at most MAX_REQUESTS times. A kernel whose
 * other thread is busy sometimes leaves a message unread until the next one arrives; stopping twice
 * does no harm.
 */
export function repeatWhile(needed: () => boolean, send: () => void): void {
  let sent = 0;
  const again = () => {
    if (!needed() || sent === MAX_REQUESTS) return;
    sent += 1;
    send();
    setTimeout(again, REPEAT_MS);
  };
  again();
}

export type StopOutcome = "interrupted" | "gone" | "requested";

/** Interrupt through the server; without one call `sendStop` while `needed`. */
export async function stop(
  kernelId: string,
  sendStop: () => void,
  needed: () => boolean,
): Promise<StopOutcome> {
  const response = await interrupt(kernelId);
  if (response?.ok) return "interrupted";
  if (response?.status === 404) return "gone";
  repeatWhile(needed, sendStop);
  return "requested";
}
