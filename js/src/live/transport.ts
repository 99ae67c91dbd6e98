// The line below the header: the progress of the prompt, then the controls to scrub through the
// run, replay it and follow it.

import { consume, type Focus } from "../charts/focus";
import { el, modified, setText } from "../widget/dom";
import { duration, given, integer, plural } from "../widget/format";
import { type Playback, READING_PACE, type Replayed, SPEEDS } from "./playback";

/** How speeds below 1 are written. */
const FRACTIONS: Record<number, string> = { 0.125: "⅛", 0.25: "¼", 0.5: "½" };

/** The value of the speed that is a constant pace. */
const READING = "reading";

export class Transport {
  readonly node: HTMLElement;
  readonly #play = el("button", "oj-button oj-play", { type: "button" }, "▶ Play");
  readonly #speed: HTMLSelectElement;
  readonly #slider = el("input", "oj-slider", {
    ...{ type: "range", step: "1", "aria-label": "Token shown" },
  });
  readonly #followButton = el("button", "oj-button oj-follow", { type: "button" }, "Live");
  readonly #reading = el("option", "", { value: READING });
  readonly #label = el("span", "oj-where");
  readonly #bar = el("progress", "oj-progress", { "aria-label": "Prompt read" });
  readonly #controls: HTMLElement;
  #pace = READING_PACE;

  constructor(
    private readonly state: Replayed,
    private readonly playback: Playback,
    focus: Focus,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const option = (value: string, text: string, selected = false) =>
      el("option", "", { value, selected }, text);
    const options = SPEEDS.map((s) => option(String(s), `${FRACTIONS[s] ?? s}×`, s === 1));
    const attributes = { "aria-label": "Replay speed" };
    this.#speed = el("select", "oj-button oj-speed", attributes, ...options, this.#reading);
    const on = (node: HTMLElement, type: string, action: () => void) =>
      node.addEventListener(
        type,
        () => {
          action();
          changed();
        },
        { signal },
      );
    on(this.#play, "click", () => playback.toggle(performance.now()));
    on(this.#followButton, "click", () => playback.follow());
    on(this.#slider, "input", () => focus.moveTo(Number(this.#slider.value)));
    // Handled here, because a notebook may prevent what arrow keys do by default.
    this.#slider.addEventListener(
      "keydown",
      (event) => {
        if (modified(event) || !playback.key(event.key)) return;
        consume(event);
        changed();
      },
      { signal },
    );
    on(this.#speed, "change", () => {
      const { value } = this.#speed;
      playback.choose(value === READING ? { pace: this.#pace } : { times: Number(value) });
    });
    this.#controls = el("span", "oj-controls", {}, this.#play, this.#speed, this.#slider);
    const parts = [this.#controls, this.#bar, this.#label, this.#followButton];
    this.node = el("div", "oj-transport", { role: "group", "aria-label": "Replay" }, ...parts);
  }

  /** Draw the controls; `offered` asks for the run to be played, with a reading `pace`. */
  draw(running: boolean, offered: boolean, pace = READING_PACE): void {
    const { playback } = this;
    this.#pace = pace;
    setText(this.#reading, `${given(pace)} tokens/s`);
    this.#speed.value = playback.pace === null ? String(playback.speed) : READING;
    this.#play.classList.toggle("oj-offered", offered);
    const reading = running && !this.state.generated;
    this.#controls.hidden = reading;
    this.#bar.hidden = !reading;
    this.#followButton.hidden = reading;
    if (reading) this.#drawPrompt();
    else this.#drawTokens(running);
    const disabled = !playback.ready;
    for (const control of [this.#play, this.#speed, this.#slider]) control.disabled = disabled;
    this.#followButton.disabled = disabled || playback.at === null;
    setText(this.#followButton, running ? "Live" : "To the end");
    setText(this.#play, playback.playing ? "❚❚ Pause" : "▶ Play");
  }

  #drawPrompt(): void {
    const { state } = this;
    const total = state.promptTokens;
    const read = promptRead(state);
    this.#bar.max = Math.max(1, total);
    this.#bar.value = read;
    if (!total) {
      setText(this.#label, "");
      return;
    }
    const left = read > 0 ? ((state.totals.elapsedNs / 1e9) * (total - read)) / read : Number.NaN;
    const rest = left > 0.5 ? ` · about ${duration(left)} left` : "";
    setText(this.#label, `prompt: ${integer(read)} of ${plural(total, "token")}${rest}`);
  }

  #drawTokens(running: boolean): void {
    const { state, playback } = this;
    const [first, last] = playback.range;
    const at = playback.at ?? last;
    this.#slider.min = String(first);
    this.#slider.max = String(Math.max(first, last));
    this.#slider.value = String(at);
    const name = (step: number) => integer(step - state.firstToken + 1);
    this.#slider.setAttribute("aria-valuetext", `token ${name(at)}`);
    if (!state.generated) {
      setText(this.#label, "");
      return;
    }
    const dropped = first > state.firstToken ? ` · kept from token ${name(first)} on` : "";
    const where =
      playback.at !== null ? `token ${name(at)} of ${name(last)}` : running ? "live" : "the end";
    setText(this.#label, where + dropped);
  }
}

/** Prompt tokens read so far. A call in progress counts by the share of layers it has routed. */
export function promptRead(state: Replayed): number {
  const open = state.layers ? (state.callTokens * state.callLayers) / state.layers : 0;
  return Math.min(state.promptTokens, state.totals.steps + Math.floor(open));
}
