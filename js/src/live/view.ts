// One view of a run: builds the panels and redraws them, at most once an animation frame, and not
// at all while nobody can see it.
//
// What arrives is drawn part by part, one an animation frame, and between two messages the experts
// in use fade; so the page is never held up for long. What the user does shows in all parts at once.

import { watchSizes } from "../charts/canvas";
import { CALM_REDRAW_MS, FRAME_BUDGET_MS, REST, UNSEEN_MS } from "./limits";
import { Detail } from "./panels/detail";
import { el, rootElement } from "../widget/dom";
import { Focus } from "../charts/focus";
import { Header } from "./header";
import { lookAt } from "./draw-input";
import type { Panel } from "./panels/panel";
import { partsOf } from "./time-parts";
import { Past } from "./history";
import { Playback } from "./playback";
import { ReadingPanel } from "./panels/latency";
import { ResidencyPanel } from "./panels/residency";
import { RoutingPanel } from "./panels/routing";
import type { RunState } from "./state";
import type { Store } from "./store";
import { TextPanel } from "./panels/text";
import { readTheme, type Theme, watchTheme } from "../widget/theme";
import { TimePanel } from "./panels/time";
import { Transport } from "./transport";
import { Turns } from "./redraw-scheduler";

/** The cost follows that of the frames in such steps: one that was held up hardly counts. */
const COST_STEP_MS = 1;

/** The parts that take turns: numbers and text go with the first of them. */
const [ROUTING, RESIDENCY, CHARTS, PARTS] = [0, 1, 2, 3];

export class View {
  readonly root: HTMLElement;
  /** How many times it was drawn, for tests and for those who wonder. */
  draws = 0;
  private readonly header: Header;
  private readonly focus: Focus;
  private readonly text: TextPanel;
  private readonly routing: RoutingPanel;
  private readonly residency: ResidencyPanel;
  private readonly reading: ReadingPanel;
  private readonly time: TimePanel;
  private readonly detail: Detail;
  private readonly past: Past;
  /** The moment before the token that is looked at. */
  private readonly before: Past;
  private readonly playback: Playback;
  private readonly transport: Transport;
  private readonly panels: Panel[];
  private readonly turns = new Turns(PARTS);
  private theme: Theme | null = null;
  private visible = false;
  private request = 0;
  private later: ReturnType<typeof setTimeout> | undefined;
  private drawnAt = 0;
  /** What a frame usually costs, in ms: about the median. */
  private cost = 0;
  private readonly calm = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(
    private readonly store: Store,
    parent: HTMLElement,
    signal: AbortSignal,
  ) {
    const { state } = store;
    const changed = () => this.redraw();
    this.focus = new Focus(changed);
    this.past = new Past(state);
    this.before = new Past(state);
    this.playback = new Playback(state, this.past);
    this.transport = new Transport(state, this.playback, changed, signal);
    const shared = [state, this.focus, changed, signal] as const;
    this.header = new Header(store, changed, signal);
    this.text = new TextPanel(...shared);
    this.routing = new RoutingPanel(...shared);
    this.residency = new ResidencyPanel(...shared);
    this.reading = new ReadingPanel(...shared);
    this.time = new TimePanel(() => partsOf(store.info, state), ...shared);
    this.detail = new Detail(store, this.focus, signal);
    // Three columns in a wide cell; the first lies above the others in a narrower one.
    const columns = [[this.text, this.time], [this.routing, this.reading], [this.residency]];
    this.panels = columns.flat().map((each) => each.panel);
    const column = (panels: { panel: Panel }[]) =>
      el("div", "oj-col", {}, ...panels.map((each) => each.panel.node));
    const grid = el("div", "oj-grid", {}, ...columns.map(column));
    this.root = rootElement("oj-root");
    const frame = el(
      "div",
      "oj-frame",
      {},
      this.header.node,
      this.transport.node,
      grid,
      this.detail.node,
    );
    this.root.append(frame);
    parent.append(this.root);
    this.watch(signal);
  }

  /** Somebody did something: all of it shows with the next animation frame. */
  private redraw(): void {
    this.turns.markTogether();
    this.schedule();
  }

  /** Something arrived: it shows part by part, unless the view is calm or looks at the past. */
  private arrived(): void {
    if (this.calm.matches || this.playback.at !== null) this.turns.markTogether();
    else this.turns.mark();
    this.schedule();
  }

  /** Draw with the next animation frame, if anybody can see it. */
  private schedule(): void {
    if (!this.visible || document.hidden || this.request) return;
    const dear = this.cost > FRAME_BUDGET_MS;
    const least = this.calm.matches ? CALM_REDRAW_MS : dear ? this.cost * REST : 0;
    const wait = this.drawnAt + least - performance.now();
    if (wait > 0) {
      this.drawLater(wait);
      return;
    }
    this.request = requestAnimationFrame((now) => this.draw(now));
  }

  private watch(signal: AbortSignal): void {
    const changed = () => this.redraw();
    const rethemed = () => {
      this.theme = null;
      this.redraw();
    };
    const seen = new IntersectionObserver((entries) => {
      this.visible = entries[entries.length - 1].isIntersecting;
      this.tellPace();
      rethemed();
    });
    seen.observe(this.root);
    watchSizes(this.root.querySelectorAll(".oj-plot, .oj-plots"), changed, signal);
    watchTheme(rethemed, signal);
    const shown = () => {
      this.tellPace();
      this.redraw();
    };
    document.addEventListener("visibilitychange", shown, { signal });
    const unlisten = this.store.listen(() => this.arrived());
    signal.addEventListener("abort", () => {
      unlisten();
      this.store.want(this, null);
      seen.disconnect();
      cancelAnimationFrame(this.request);
      clearTimeout(this.later);
      this.root.remove();
    });
  }

  /** Tell how often this view wants frames: seldom while it is unseen, or while drawing is dear. */
  private tellPace(): void {
    const dear =
      this.cost > FRAME_BUDGET_MS ? 100 * Math.ceil((PARTS * this.cost * REST) / 100) : 0;
    this.store.want(this, this.visible && !document.hidden ? dear : UNSEEN_MS);
  }

  private draw(now: number): void {
    this.request = 0;
    const started = performance.now();
    this.drawnAt = started;
    this.draws += 1;
    this.store.drain();
    this.theme ??= readTheme(this.root);
    if (this.playback.tick(started)) this.turns.markTogether();
    const parts = this.turns.take();
    if (parts.length) this.drawParts(parts, now);
    if (!parts.includes(RESIDENCY)) this.residency.fade(now);
    // A table is brought up to date less often than it changes; the last change must show too.
    const apart = performance.now() - started - this.cost;
    this.cost += Math.max(-COST_STEP_MS, Math.min(COST_STEP_MS, apart));
    if (this.draws % 32 === 0) this.tellPace();
    if (this.playback.playing || this.turns.pending || this.residency.fading) this.schedule();
    if (this.store.running && this.panels.some((panel) => panel.tableOpen)) this.drawLater(600);
  }

  private drawParts(parts: number[], now: number): void {
    const { state, info, status } = this.store;
    const { at } = this.playback;
    const picture = at === null ? state : this.past.show(at);
    const look = lookAt(state, this.focus, this.theme!, picture, at, this.before);
    if (parts.includes(ROUTING)) {
      this.transport.draw(this.store.running);
      this.header.draw(this.store.lifeline.holds(this.root));
      this.detail.draw(look);
      this.routing.draw(look);
      this.routing.panel.drawTable(now);
    }
    if (parts.includes(RESIDENCY)) {
      this.residency.draw(look, this.calm.matches ? null : now);
      this.residency.panel.drawTable(now);
    }
    if (parts.includes(CHARTS)) {
      for (const each of [this.reading, this.time]) {
        each.draw(look);
        each.panel.drawTable(now);
      }
    }
    if (!parts.includes(ROUTING)) return;
    for (const panel of this.panels) {
      // A dense model has no experts to show, but text and time.
      const needsExperts = panel !== this.text.panel && panel !== this.time.panel;
      panel.setHint(panel === this.text.panel ? "" : hint(state, needsExperts));
    }
    this.text.panel.drawTable(now);
    // The last to draw: to scroll to its end it must be laid out.
    this.text.draw(look, status, info.prompt ?? "");
  }

  private drawLater(wait: number): void {
    clearTimeout(this.later);
    this.later = setTimeout(() => {
      if (!this.visible || document.hidden) return;
      this.turns.mark();
      this.request ||= requestAnimationFrame((now) => this.draw(now));
    }, wait);
  }
}

/** What stands in the plots' place while there is nothing to plot. */
function hint(state: RunState, needsExperts: boolean): string {
  if (state.seq === 0) return "nothing yet";
  return needsExperts && state.layers * state.experts === 0
    ? "this model has no expert layers"
    : "";
}
