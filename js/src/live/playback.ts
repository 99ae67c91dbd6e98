// Which token is shown while the run is scrubbed back or played again; null while it is followed.

import type { Past } from "./history";
import type { RunState } from "./state";

export const SPEEDS = [1, 2, 4, 16] as const;

/** A pause longer than this is no pause of the run: the page was hidden, or slept. */
const LONGEST_MS = 1000;

export class Playback {
  at: number | null = null;
  playing = false;
  speed: number = SPEEDS[0];
  private clock = 0;
  /** Milliseconds played of the next token's time. */
  private played = 0;

  constructor(
    private readonly state: RunState,
    private readonly past: Past,
  ) {}

  /** The first and the last step that can be shown. */
  get range(): [number, number] {
    const { state } = this;
    const last = state.steps.end - 1;
    return [Math.min(last, Math.max(state.firstToken, this.past.first)), last];
  }

  /** Whether there is anything to scrub through. */
  get ready(): boolean {
    const [first, last] = this.range;
    return this.state.generated > 1 && last > first;
  }

  scrub(step: number): void {
    const [first, last] = this.range;
    this.at = Math.max(first, Math.min(last, step));
    this.played = 0;
  }

  /** Arrow keys, Home and End on the slider; whether it was one of them. */
  key(key: string): boolean {
    const [first, last] = this.range;
    const at = this.at ?? last;
    const targets: Record<string, number> = {
      ...{ ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1 },
      ...{ PageUp: at + 10, PageDown: at - 10, Home: first, End: last },
    };
    if (!(key in targets)) return false;
    this.playing = false;
    this.scrub(targets[key]);
    return true;
  }

  follow(): void {
    this.at = null;
    this.playing = false;
  }

  /** Play from where it stands; from the beginning when it stands at the end. */
  toggle(now: number): void {
    this.playing = !this.playing;
    this.clock = now;
    this.played = 0;
    if (!this.playing) {
      this.at ??= this.range[1];
    } else if (this.at === null || this.at >= this.range[1]) {
      this.scrub(this.range[0]);
    }
  }

  /**
   * Let the time since the last call pass; at the end of what is known the run is followed.
   * Returns whether another token is shown.
   */
  tick(now: number): boolean {
    const before = this.at;
    this.pass(now);
    return this.at !== before;
  }

  private pass(now: number): void {
    if (!this.ready) this.follow();
    if (this.at === null) return;
    const [first, last] = this.range;
    this.at = Math.max(first, Math.min(last, this.at));
    if (!this.playing) return;
    this.played += Math.min(LONGEST_MS, Math.max(0, now - this.clock)) * this.speed;
    this.clock = now;
    while (this.at < last) {
      const spent = this.state.steps.at("tokenMs", this.at + 1) || 0;
      if (this.played < spent) return;
      this.played -= spent;
      this.at += 1;
    }
    this.follow();
  }
}
