// The playhead: which token is shown while the user scrubs back or plays the run again.

import type { Playhead } from "../charts/focus";
import type { ExpertHistory } from "./history";
import type { RunState } from "./state";

/** What is replayed: a run, or two by their tokens. */
export type Replayed = Readonly<
  Pick<
    RunState,
    | ("firstToken" | "generated" | "tokensPerSecond" | "final")
    | ("promptTokens" | "layers" | "callTokens" | "callLayers")
  >
> & {
  readonly steps: Pick<RunState["steps"], "end" | "first" | "at">;
  readonly totals: Pick<RunState["totals"], "steps" | "elapsedNs">;
};

/** How fast a run is replayed, as multiples of its own speed. */
export const SPEEDS = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16] as const;

/** A constant pace at which a text can be read, in tokens per second. */
export const READING_PACE = 8;

/** A run of more tokens per second is replayed at a reading pace, unless a speed is chosen. */
const FAST = 50;

/** A longer time between two ticks does not count in full: the page was hidden, or slept. */
const MAX_TICK_MS = 1000;

/** The playhead rests once it has not moved for this long, in ms. */
export const REST_MS = 150;

export class Playback implements Playhead {
  /** The step shown; null while the view follows the run. */
  at: number | null = null;
  playing = false;
  /** A multiple of the run's own speed; unused while `pace` is set. */
  speed = 1;
  /** Tokens per second, whatever the run took; null plays the run's own times. */
  pace: number | null = null;
  /** Whether the playhead has been moved or played since the view was made. */
  used = false;
  #chosen = false;
  /** Whether to wait at the last token for the next, and not to follow the run from there on. */
  #paced = false;
  #clock = 0;
  #movedAt = 0;
  /** Milliseconds of the next token's time that have been played. */
  #played = 0;

  constructor(
    private readonly state: Replayed,
    private readonly history: Pick<ExpertHistory, "first">,
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

  /** Whether the playhead rests on a token, and has done so for a moment. */
  resting(now: number): boolean {
    return this.at !== null && !this.playing && now - this.#movedAt >= REST_MS;
  }

  /** Show a step, or the nearest that can be shown; playing ends. */
  moveTo(step: number): void {
    this.playing = this.#paced = false;
    this.#jump(step);
  }

  /** Handle an arrow key, a page key, Home or End; returns whether `key` is one. */
  key(key: string): boolean {
    const [first, last] = this.range;
    const at = this.at ?? last;
    const targets: Record<string, number> = {
      ...{ ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1 },
      ...{ PageUp: at + 10, PageDown: at - 10, Home: first, End: last },
    };
    if (!(key in targets)) return false;
    this.moveTo(targets[key]);
    return true;
  }

  follow(): void {
    this.at = null;
    this.playing = this.#paced = false;
  }

  /** Choose a multiple of the run's own speed, or tokens per second. */
  choose(speed: { times: number } | { pace: number }): void {
    this.#chosen = true;
    if ("pace" in speed) this.pace = speed.pace;
    else [this.pace, this.speed] = [null, speed.times];
  }

  /** Show the run, which may go on meanwhile, at `pace` tokens per second from its first token. */
  playAt(pace: number, now: number): void {
    this.choose({ pace });
    this.follow();
    this.#play(now);
    this.#paced = true;
  }

  /** Play from the step shown, or from the beginning if that is the last; or pause. */
  toggle(now: number): void {
    if (!this.playing) this.#play(now);
    else this.playing = this.#paced = false;
  }

  #play(now: number): void {
    if (!this.#chosen && this.state.tokensPerSecond > FAST) this.pace = READING_PACE;
    this.playing = true;
    this.#clock = now;
    if (this.at === null || this.at >= this.range[1]) this.#jump(this.range[0]);
  }

  #jump(step: number): void {
    const [first, last] = this.range;
    this.at = Math.max(first, Math.min(last, step));
    this.#movedAt = performance.now();
    this.used = true;
    this.#played = 0;
  }

  /**
   * Advance by the time since the last call; at the last step the view follows the run again.
   * Returns whether another token is shown.
   */
  tick(now: number): boolean {
    const before = this.at;
    this.#advance(now);
    return this.at !== before;
  }

  #advance(now: number): void {
    if (!this.state.generated) this.follow();
    if (this.at === null) return;
    const [first, last] = this.range;
    this.at = Math.max(first, Math.min(last, this.at));
    if (!this.playing) return;
    const spent = Math.min(MAX_TICK_MS, Math.max(0, now - this.#clock));
    this.#played += this.pace === null ? spent * this.speed : spent;
    this.#clock = now;
    while (this.at < last) {
      const wanted = this.#timeOf(this.at + 1);
      if (this.#played < wanted) return;
      this.#played -= wanted;
      this.at += 1;
    }
    if (this.#paced && !this.state.final) this.#played = Math.min(this.#played, 1000 / this.pace!);
    else this.follow();
  }

  /** How long a token is waited for, in ms. */
  #timeOf(step: number): number {
    return this.pace === null ? this.state.steps.at("tokenMs", step) || 0 : 1000 / this.pace;
  }
}
