// One view of a run: builds the panels, and redraws them at most once per animation frame while
// somebody can see them.
//
// After a message each animation frame draws one part, so that no frame takes long. After a user's
// action three frames draw all of them: a text that is laid out anew has one for itself.

import { Focus } from "../charts/focus";
import { el, rootElement } from "../widget/dom";
import { watchSizes, watchVisibility } from "../widget/observe";
import { REDUCED_MOTION_REDRAW_MS, REST_FACTOR } from "../widget/redraw-limits";
import { readTheme, type Theme, watchTheme } from "../widget/theme";
import { drawInput } from "./draw-input";
import { Header } from "./header";
import { Hint } from "./hint";
import { ExpertHistory } from "./history";
import { UNSEEN_MS } from "./limits";
import { Machines } from "./machines";
import { ExplainPanel } from "./panels/explain";
import { LatencyPanel } from "./panels/latency";
import type { Panel } from "./panels/panel";
import { ResidencyPanel } from "./panels/residency";
import { RoutingPanel } from "./panels/routing";
import { TextPanel } from "./panels/text";
import { TimePanel } from "./panels/time";
import { Playback, REST_MS } from "./playback";
import { watchPlayheadKeys } from "./playhead-keys";
import { RedrawScheduler } from "./redraw-scheduler";
import type { RunState } from "./state";
import type { RunStore } from "./store";
import { SUMMARISED, seldom, summariesOf } from "./summaries";
import { partsOf } from "./time-parts";
import { addTokenMenu } from "./token-menu";
import { Transport } from "./transport";

/** A redraw may cost this much, in ms. If it costs more, the view rests after it. */
const FRAME_BUDGET_MS = 8;

/**
 * The estimated cost changes by at most this much per frame, so that one slow frame hardly counts.
 */
const COST_STEP_MS = 1;

const [WORDS, TEXT, CHARTS, ROUTING, RESIDENCY] = [0, 1, 2, 3, 4];
/** The parts that are drawn together after a message, and after a user's action. */
const AFTER_MESSAGE = [[WORDS, TEXT], [CHARTS], [ROUTING], [RESIDENCY]];
const AFTER_ACTION = [[WORDS, CHARTS], [TEXT], [ROUTING, RESIDENCY]];

export class RunView {
  readonly root: HTMLElement;
  #draws = 0;
  readonly #header: Header;
  readonly #focus: Focus;
  readonly #text: TextPanel;
  readonly #routing: RoutingPanel;
  readonly #residency: ResidencyPanel;
  readonly #latency: LatencyPanel;
  readonly #time: TimePanel;
  readonly #explain: ExplainPanel;
  readonly #machines = new Machines();
  readonly #hint: Hint;
  readonly #summarise: () => void;
  readonly #history: ExpertHistory;
  /** The experts after the token to describe. */
  readonly #selected: ExpertHistory;
  readonly #playback: Playback;
  readonly #transport: Transport;
  readonly #panels: Panel[];
  readonly #scheduler = new RedrawScheduler(AFTER_MESSAGE, AFTER_ACTION);
  #theme: Theme | null = null;
  #visible = false;
  /** How many tokens there were when any was first seen. */
  #seenFrom: number | null = null;
  #request = 0;
  #later: ReturnType<typeof setTimeout> | undefined;
  #drawnAt = 0;
  /** Whether the rest of an action is drawn in the next frames. */
  #partlyDrawn = false;
  /** The usual cost of a frame in ms, about the median. */
  #cost = 0;
  readonly #reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(
    private readonly store: RunStore,
    parent: HTMLElement,
    signal: AbortSignal,
  ) {
    const { state } = store;
    const changed = () => this.#redraw();
    this.#selected = new ExpertHistory(state);
    this.#history = new ExpertHistory(state, this.#selected);
    this.#playback = new Playback(state, this.#history);
    this.#focus = new Focus(changed, this.#playback);
    this.#transport = new Transport(state, this.#playback, this.#focus, changed, signal);
    const shared = [state, this.#focus, changed, signal] as const;
    this.#header = new Header(store, changed, signal);
    this.#text = new TextPanel(store, ...shared);
    this.#routing = new RoutingPanel(...shared);
    this.#residency = new ResidencyPanel(store, this.#focus, changed, signal);
    this.#latency = new LatencyPanel(...shared);
    this.#time = new TimePanel(() => partsOf(store.info), ...shared);
    this.#hint = new Hint(changed, signal);
    const panels = {
      ...{ text: this.#text, routing: this.#routing, residency: this.#residency },
      ...{ latency: this.#latency, time: this.#time },
    };
    this.#summarise = seldom(() => {
      const experts = this.#playback.at === null ? state : this.#history;
      const summaries = summariesOf(state, store.info, experts);
      for (const name of SUMMARISED) panels[name].panel.setSummary(summaries[name]);
    }, signal);
    this.#explain = new ExplainPanel(store, this.#focus, this.#hint.node, signal);
    this.#panels = Object.values(panels).map((each) => each.panel);
    const nodes = this.#panels.map((panel) => panel.node);
    nodes.splice(1, 0, this.#explain.node); // in the order of a narrow view, which Tab follows
    const grid = el("div", "oj-grid oj-unexplained", {}, ...nodes);
    this.root = rootElement("oj-root oj-run-view");
    this.root.tabIndex = -1; // a click anywhere lets the arrow keys move the playhead
    const parts = [this.#header.node, this.#machines.node, this.#transport.node, grid];
    this.root.append(el("div", "oj-frame", {}, ...parts));
    watchPlayheadKeys(this.root, this.#playback, this.#focus, changed, signal);
    const map = this.#routing.panel.node;
    const selection = [this.#focus, this.#playback, this.#explain] as const;
    addTokenMenu(this.root, ...selection, map, changed, signal);
    parent.append(this.root);
    this.#observe(signal);
  }

  /** Redraw everything in the next animation frames, after a user's action. */
  #redraw(): void {
    this.#scheduler.markUrgent();
    this.#schedule();
  }

  /**
   * Redraw after a message: part by part, unless motion is reduced or an earlier token is shown.
   */
  #redrawInParts(): void {
    if (this.#reducedMotion.matches || this.#playback.at !== null) this.#scheduler.markUrgent();
    else this.#scheduler.mark();
    this.#schedule();
  }

  /** Draw in the next animation frame, if anybody can see the view. */
  #schedule(): void {
    if (!this.#visible || document.hidden || this.#request) return;
    const expensive = this.#cost > FRAME_BUDGET_MS;
    const rest = this.#partlyDrawn
      ? 0
      : this.#reducedMotion.matches
        ? REDUCED_MOTION_REDRAW_MS
        : expensive
          ? this.#cost * REST_FACTOR
          : 0;
    const wait = this.#drawnAt + rest - performance.now();
    if (wait > 0) {
      this.#drawLater(wait);
      return;
    }
    this.#request = requestAnimationFrame((now) => this.#draw(now));
  }

  #observe(signal: AbortSignal): void {
    const changed = () => this.#redraw();
    const rethemed = () => {
      this.#theme = null;
      this.#redraw();
    };
    const visibilityChanged = (visible: boolean) => {
      this.#visible = visible;
      this.#text.seen();
      this.#requestInterval();
      rethemed();
    };
    watchVisibility(this.root, visibilityChanged, signal);
    watchSizes(this.root.querySelectorAll(".oj-plot, .oj-plots"), changed, signal);
    watchTheme(rethemed, signal);
    const pageShown = () => {
      this.#requestInterval();
      this.#redraw();
    };
    document.addEventListener("visibilitychange", pageShown, { signal });
    const unlisten = this.store.listen(() => this.#redrawInParts());
    signal.addEventListener("abort", () => {
      unlisten();
      this.store.setFrameInterval(this, null);
      cancelAnimationFrame(this.#request);
      clearTimeout(this.#later);
      this.root.remove();
    });
  }

  /** Request frames less often while the view is unseen, or while drawing is expensive. */
  #requestInterval(): void {
    const expensive = this.#cost > FRAME_BUDGET_MS;
    const ms = expensive
      ? 100 * Math.ceil((AFTER_MESSAGE.length * this.#cost * REST_FACTOR) / 100)
      : 0;
    this.store.setFrameInterval(this, this.#visible && !document.hidden ? ms : UNSEEN_MS);
  }

  #draw(now: number): void {
    this.#request = 0;
    const started = performance.now();
    this.#drawnAt = started;
    this.#draws += 1;
    this.store.drain();
    this.#theme ??= readTheme(this.root);
    this.#beginPaced(started);
    if (this.#playback.tick(started)) this.#scheduler.markUrgent();
    this.root.classList.toggle("oj-playing", this.#playback.playing);
    const parts = this.#scheduler.take();
    this.#partlyDrawn = this.#scheduler.urgent;
    if (parts.length) this.#drawParts(parts, now);
    const difference = performance.now() - started - this.#cost;
    this.#cost += Math.max(-COST_STEP_MS, Math.min(COST_STEP_MS, difference));
    if (this.#draws % 32 === 0) this.#requestInterval();
    if (this.#playback.playing || this.#scheduler.pending) this.#schedule();
  }

  /** Play at the requested pace, once, from when the view is first seen. */
  #beginPaced(now: number): void {
    const { state, info } = this.store;
    if (this.#seenFrom === null && state.generated) {
      this.#seenFrom = state.generated;
      if (info.pace) this.#playback.playAt(info.pace, now);
    }
  }

  /** Whether most of a run was over before the view was first seen, and has not been played. */
  get #offered(): boolean {
    const missed = 2 * (this.#seenFrom ?? 0) > this.store.state.generated;
    return missed && !this.store.running && this.#playback.ready && !this.#playback.used;
  }

  #drawParts(parts: number[], now: number): void {
    const { state, info, status } = this.store;
    const { at } = this.#playback;
    const experts = at === null ? state : this.#history.show(at);
    const resting = this.#playback.resting(performance.now());
    // Checkpoints for the next jump are made while the playhead does not move.
    if (!this.#focus.stepHovered && (at === null || resting) && this.#selected.keepUp())
      this.#drawLater(REST_MS);
    if (at !== null && !resting && !this.#playback.playing) this.#drawLater(REST_MS);
    const input = drawInput(
      ...([state, this.#focus, this.#theme!, experts, this.#selected, resting] as const),
    );
    if (parts.includes(WORDS)) {
      this.#transport.draw(this.store.running, this.#offered, info.pace);
      this.#header.draw(this.store.connection.isOpen(this.root), this.#playback, this.#theme!);
      this.#hint.draw(state.generated, at !== null && !this.#playback.playing);
      const explained = this.#explain.draw(input);
      this.#explain.node.parentElement!.classList.toggle("oj-unexplained", !explained);
    }
    if (parts.includes(ROUTING)) {
      this.#routing.draw(input);
      this.#routing.panel.drawTable(now);
    }
    if (parts.includes(RESIDENCY)) {
      this.#residency.draw(input);
      this.#residency.panel.drawTable(now);
      const decoded = state.steps.end - state.firstToken - 1;
      const past = at === null ? null : Math.max(0, at - state.firstToken - 1) / decoded;
      this.#machines.draw(info, past, this.#residency.cells(input.theme), input.theme);
    }
    if (parts.includes(CHARTS)) {
      for (const each of [this.#latency, this.#time]) {
        each.draw(input);
        each.panel.drawTable(now);
      }
    }
    if (parts.includes(WORDS)) {
      for (const panel of this.#panels) {
        // A dense model has text and times, but no experts.
        const needsExperts = panel !== this.#text.panel && panel !== this.#time.panel;
        panel.setHint(panel === this.#text.panel ? "" : hint(state, needsExperts));
      }
      this.#summarise();
    }
    if (!parts.includes(TEXT)) return;
    // Drawn last, because scrolling to its end needs a layout.
    this.#text.draw(input, status, info.prompt ?? "");
    this.#text.panel.drawTable(now);
  }

  #drawLater(wait: number): void {
    clearTimeout(this.#later);
    this.#later = setTimeout(() => {
      if (!this.#visible || document.hidden) return;
      this.#scheduler.markUrgent();
      this.#request ||= requestAnimationFrame((now) => this.#draw(now));
    }, wait);
  }
}

/** The text in place of the plots while there is nothing to plot. */
function hint(state: RunState, needsExperts: boolean): string {
  if (state.seq === 0) return "nothing yet";
  return needsExperts && state.layers * state.experts === 0
    ? "this model has no expert layers"
    : "";
}
