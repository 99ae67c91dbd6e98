// Replays a run: which token is shown while the user scrubs back or plays the run again.

import type { ExpertHistory } from "./history";
import type { RunState } from "./state";

export const SPEEDS = [1, 2, 4, 16] as const;

/** A longer time between two ticks does not count in full: the page was hidden, or slept. */
const MAX_TICK_MS = 1000;

export class Playback {
  /** The step shown; null while the view follows the run. */
  at: number | null = null;
  playing = false;
  speed: number = SPEEDS[0];
  private clock = 0;
  /** Milliseconds of the next token's time that have been played. */
  private played = 0;

  constructor(
    private readonly state: RunState,
    private readonly history: ExpertHistory,
  ) {}

  /** The first and the last step that can be shown. */
  get range(): [number, number] {
    const { state } = this;
    const last = state.steps.end - 1;
    return [Math.min(last, Math.max(state.firstToken, this.history.first)), last];
  }

  /** Whether there is more than one token to scrub through. */
  get ready(): boolean {
    const [first, last] = this.range;
    return this.state.generated > 1 && last > first;
  }

  scrub(step: number): void {
    const [first, last] = this.range;
    this.at = Math.max(first, Math.min(last, step));
    this.played = 0;
  }

  /** Handle the slider's arrow keys, page keys, Home and End; returns whether `key` is one. */
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

  /** Play from the step shown, or from the beginning if that is the last; or pause. */
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
   * Advance by the time since the last call; at the last step the view follows the run again.
   * Returns whether another token is shown.
   */
  tick(now: number): boolean {
    const before = this.at;
    this.advance(now);
    return this.at !== before;
  }

  private advance(now: number): void {
    if (!this.ready) this.follow();
    if (this.at === null) return;
    const [first, last] = this.range;
    this.at = Math.max(first, Math.min(last, this.at));
    if (!this.playing) return;
    this.played += Math.min(MAX_TICK_MS, Math.max(0, now - this.clock)) * this.speed;
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
