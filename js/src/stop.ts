// Asking the kernel to stop.
//
// While a cell is running, most kernels read no message from a widget until the cell is over. The
// Jupyter server, though, can interrupt the kernel, and a page that it serves may ask it to. Where
// there is no such server a message is all there is, and the user is told how to interrupt by hand.

import { interrupt } from "./server";

export type Outcome = "interrupted" | "gone" | "asked";

/** Interrupt over the server, else by `sendStop`; tells which of them it was. */
export async function stop(kernelId: string, sendStop: () => void): Promise<Outcome> {
  const response = await interrupt(kernelId);
  if (response?.ok) return "interrupted";
  if (response?.status === 404) return "gone";
  sendStop();
  return "asked";
}
