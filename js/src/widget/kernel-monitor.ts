// Notices that the kernel died in the middle of a run.
//
// A widget is notified when a user shuts its kernel down or restarts it, but not when the kernel
// crashes and the server restarts it: frames stop arriving, and nothing else happens. So after some
// silence the monitor asks the server for the kernel's state. A busy kernel may be reading a long
// prompt; an idle one runs nothing any more.

import { kernelState } from "./server";

const SILENCE_MS = 10_000;
const CHECK_MS = 5_000;

const ALIVE = new Set(["busy", "starting", "restarting"]);

export class KernelMonitor {
  lost = false;
  #lastMessageAt = performance.now();
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(
    private readonly kernelId: () => string,
    private readonly running: () => boolean,
    private readonly changed: () => void,
    private readonly silence = SILENCE_MS,
    interval = CHECK_MS,
  ) {
    this.#timer = setInterval(() => void this.#check(), interval);
  }

  /** Record that a message from the kernel arrived. */
  messageArrived(): void {
    this.#lastMessageAt = performance.now();
    this.lost = false;
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #check(): Promise<void> {
    const lastMessageAt = this.#lastMessageAt;
    if (!this.running() || performance.now() - lastMessageAt < this.silence) return;
    const state = await kernelState(this.kernelId());
    if (state === null || lastMessageAt !== this.#lastMessageAt) return;
    const lost = !ALIVE.has(state);
    if (lost === this.lost) return;
    this.lost = lost;
    this.changed();
  }
}
