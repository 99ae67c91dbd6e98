// Asking the kernel to stop.
//
// While a cell is running, most kernels read no message from a widget until the cell is over. The
// Jupyter server, though, can interrupt the kernel, and a page that it serves may ask it to. Where
// there is no such server a message is all there is, and the user is told how to interrupt by hand.

import { interrupt } from "./server";

const AGAIN_MS = 1000;
const MOST = 20;

/**
 * Ask now, and again every second while it is still `needed`. Now and then a kernel whose other
 * thread is at work leaves a message unread until the next one comes; to stop twice does no harm.
 */
export function insist(ask: () => void, needed: () => boolean): void {
  let asked = 0;
  const again = () => {
    if (!needed() || asked === MOST) return;
    asked += 1;
    ask();
    setTimeout(again, AGAIN_MS);
  };
  again();
}

export type Outcome = "interrupted" | "gone" | "asked";

/** Interrupt over the server, else by `sendStop` while `needed`; tells which of them it was. */
export async function stop(
  kernelId: string,
  sendStop: () => void,
  needed: () => boolean,
): Promise<Outcome> {
  const response = await interrupt(kernelId);
  if (response?.ok) return "interrupted";
  if (response?.status === 404) return "gone";
  insist(sendStop, needed);
  return "asked";
}
