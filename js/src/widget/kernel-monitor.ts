// Notices a kernel that died in the middle of a run.
//
// A widget is told when its kernel is shut down or restarted by hand, but not when it crashes and
// the server restarts it: the frames just end. So after some silence the server is asked. A kernel
// that is busy may well be reading a long prompt; one that is idle has no run any more.

import { kernelState } from "./server";

const SILENCE_MS = 10_000;
const EVERY_MS = 5_000;

const ALIVE = new Set(["busy", "starting", "restarting"]);

export class Watch {
  lost = false;
  private heardAt = performance.now();
  private readonly timer: ReturnType<typeof setInterval>;

  constructor(
    private readonly kernelId: () => string,
    private readonly running: () => boolean,
    private readonly changed: () => void,
    private readonly silence = SILENCE_MS,
    every = EVERY_MS,
  ) {
    this.timer = setInterval(() => void this.look(), every);
  }

  /** Something came from the kernel. */
  heard(): void {
    this.heardAt = performance.now();
    this.lost = false;
  }

  close(): void {
    clearInterval(this.timer);
  }

  private async look(): Promise<void> {
    const heardAt = this.heardAt;
    if (!this.running() || performance.now() - heardAt < this.silence) return;
    const state = await kernelState(this.kernelId());
    if (state === null || heardAt !== this.heardAt) return;
    const lost = !ALIVE.has(state);
    if (lost === this.lost) return;
    this.lost = lost;
    this.changed();
  }
}
