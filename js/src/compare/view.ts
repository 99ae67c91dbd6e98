// Two runs side by side: one playhead, and the first token where their texts part.

import { Focus } from "../charts/focus";
import { stepName } from "../charts/step-range";
import { isOver } from "../live/info";
import { watchPlayheadKeys } from "../live/playhead-keys";
import type { RunStore } from "../live/store";
import { Transport } from "../live/transport";
import { el, rootElement, setText } from "../widget/dom";
import { integer, quoted } from "../widget/format";
import { watchSizes, watchVisibility } from "../widget/observe";
import { REST_FACTOR } from "../widget/redraw-limits";
import { readTheme, type Theme, watchTheme } from "../widget/theme";
import { DifferencePanel } from "./difference";
import { Pair } from "./pair";
import { Side } from "./side";

/** What follows where the runs did not begin with the same experts in RAM. */
const BEGAN = " They began with other experts in RAM: hit rates and speeds cannot be compared.";

export class CompareView {
  readonly root: HTMLElement;
  readonly #pair: Pair;
  readonly #sides: readonly [Side, Side];
  readonly #difference: DifferencePanel;
  readonly #transport: Transport;
  readonly #parting = el("span", "oj-parting", { role: "status" });
  /** Where other experts are first chosen. */
  readonly #others = el("span", "oj-others", { role: "status" });
  readonly #go = el("button", "oj-button oj-go", { type: "button" }, "Show it");
  #theme: Theme | null = null;
  #visible = false;
  #request = 0;
  #later: ReturnType<typeof setTimeout> | undefined;
  #drawnAt = 0;
  #cost = 0;
  /** Where the routing of both runs parts, in words, and of which messages. */
  #routing = { of: "", text: "" };

  constructor(
    private readonly stores: readonly [RunStore, RunStore],
    names: readonly [string, string],
    parent: HTMLElement,
    signal: AbortSignal,
  ) {
    const [a, b] = stores;
    const changed = () => this.#schedule();
    this.#pair = new Pair([a.state, b.state]);
    const { playback } = this.#pair;
    const side = (n: 0 | 1) => new Side(names[n], stores[n], this.#pair, changed, signal);
    this.#sides = [side(0), side(1)];
    this.#sides[0].text.shareScale(this.#sides[1].text);
    const focus = new Focus(changed, playback);
    this.#difference = new DifferencePanel(names, [a.state, b.state], focus, changed, signal);
    this.#transport = new Transport(this.#pair.tokens, playback, focus, changed, signal);
    this.#go.addEventListener("click", () => this.#showParting(), { signal });
    const column = ({ heading, text, routing, residency }: Side, name: string) =>
      [heading, text.panel.node, routing.panel.node, residency.panel.node].map((node, row) => {
        node.style.gridArea = `${["head", "text", "routing", "residency"][row]}-${name}`;
        return node;
      });
    const parts = [...column(this.#sides[0], "a"), ...column(this.#sides[1], "b")];
    this.#difference.panel.node.style.gridArea = "difference";
    const grid = el("div", "oj-pair", {}, ...parts, this.#difference.panel.node);
    this.root = rootElement("oj-root oj-run-view oj-compare");
    this.root.tabIndex = -1;
    const sentences = [this.#parting, " ", this.#go, this.#others];
    const line = el("div", "oj-parting-line", {}, ...sentences);
    this.root.append(el("div", "oj-frame", {}, line, this.#transport.node, grid));
    watchPlayheadKeys(this.root, playback, focus, changed, signal);
    parent.append(this.root);
    this.#observe(signal);
  }

  #observe(signal: AbortSignal): void {
    const changed = () => this.#schedule();
    const rethemed = () => {
      this.#theme = null;
      this.#schedule();
    };
    const visibilityChanged = (visible: boolean) => {
      this.#visible = visible;
      for (const { text } of this.#sides) text.seen();
      rethemed();
    };
    watchVisibility(this.root, visibilityChanged, signal);
    watchSizes(this.root.querySelectorAll(".oj-plot, .oj-plots"), changed, signal);
    watchTheme(rethemed, signal);
    document.addEventListener("visibilitychange", changed, { signal });
    const ends = this.stores.map((store) => store.listen(changed));
    signal.addEventListener("abort", () => {
      for (const end of ends) end();
      cancelAnimationFrame(this.#request);
      clearTimeout(this.#later);
      this.root.remove();
    });
  }

  /** Draw in the next animation frame, if anybody can see the view. */
  #schedule(): void {
    if (!this.#visible || document.hidden || this.#request) return;
    const wait = this.#drawnAt + this.#cost * REST_FACTOR - performance.now();
    clearTimeout(this.#later);
    if (this.#running && wait > 0) this.#later = setTimeout(() => this.#schedule(), wait);
    else this.#request = requestAnimationFrame(() => this.#draw());
  }

  get #running(): boolean {
    return this.stores.some((store) => store.running);
  }

  #draw(): void {
    this.#request = 0;
    const started = performance.now();
    this.#drawnAt = started;
    for (const store of this.stores) store.drain();
    this.#theme ??= readTheme(this.root);
    this.#pair.playback.tick(started);
    this.root.classList.toggle("oj-playing", this.#pair.playback.playing);
    this.#transport.draw(this.#running, false);
    for (const side of this.#sides) side.draw(this.#theme);
    this.#difference.draw(this.#theme, this.#sides[0].experts, this.#sides[1].experts);
    this.#drawParting();
    this.#cost += (performance.now() - started - this.#cost) / 4;
    if (this.#pair.playback.playing) this.#schedule();
  }

  get #partingToken(): number | null {
    const [a, b] = this.stores;
    return this.#pair.parting([isOver(a.status), isOver(b.status)]);
  }

  #drawParting(): void {
    const token = this.#partingToken;
    this.#go.hidden = token === null;
    const some = this.stores.every(({ state }) => state.generated);
    const same = this.#running ? "The texts are the same so far." : "The texts are the same.";
    const text = token !== null ? this.#describe(token) : some ? same : "";
    setText(this.#parting, text);
    setText(this.#others, text && this.#routingText());
    for (const { text, store } of this.#sides) {
      text.markParting(token === null ? null : token + store.state.firstToken);
    }
  }

  #describe(token: number): string {
    const said = this.#sides.map(({ name, store: { state } }) => {
      if (token >= state.generated) return `${name} ends`;
      const text = quoted(state.textOf(token + state.firstToken));
      return text ? `${name} says ${text}` : `${name} says nothing visible`;
    });
    return `The texts part at token ${integer(token + 1)}: ${said.join(", ")}.`;
  }

  /** A sentence that begins with a space, once both runs are over; "" where it is not known. */
  #routingText(): string {
    const states = this.stores.map(({ state }) => state);
    if (this.#running) return "";
    const of = states.map(({ epoch, seq }) => `${epoch} ${seq}`).join();
    if (of !== this.#routing.of) {
      const step = this.#pair.otherExperts();
      const first = Math.min(...states.map(({ firstToken }) => firstToken));
      const at = { prompt: step !== null && step < first, origin: 0 };
      if (!at.prompt) at.origin = first;
      const text = step === null ? "" : ` Other experts are first chosen at ${stepName(step, at)}.`;
      this.#routing = { of, text: text + (this.#pair.beganAlike() ? "" : BEGAN) };
    }
    return this.#routing.text;
  }

  #showParting(): void {
    const token = this.#partingToken;
    if (token !== null) this.#pair.playback.moveTo(token);
    this.#schedule();
  }
}
