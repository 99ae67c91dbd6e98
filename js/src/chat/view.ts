// One view of a chat: head, messages, composer. It redraws at most once per animation frame.

import { el, rootElement, setText } from "../widget/dom";
import { integer } from "../widget/format";
import type { WidgetHost } from "../widget/host";
import { watchSizes, watchVisibility } from "../widget/observe";
import { REDUCED_MOTION_REDRAW_MS, REST_FACTOR } from "../widget/redraw-limits";
import { readTheme, watchTheme } from "../widget/theme";
import { button } from "./button";
import { Composer } from "./composer";
import { LivePanel } from "./live-panel";
import { MessageLog } from "./message-log";
import { RunPanel } from "./run-panel";
import { Settings } from "./settings";
import type { ChatStore } from "./store";

/** The context counts as nearly full from this share on. */
const NEARLY_FULL = 0.9;

export class ChatView {
  readonly root: HTMLElement;
  readonly #pick = el("select", "oj-input oj-pick", { "aria-label": "Conversation" });
  readonly #context = el("span", "oj-facts oj-context");
  readonly #badge = el("div", "oj-problem");
  readonly #log: MessageLog;
  readonly #notice = el("div", "oj-notice", { role: "alert" });
  readonly #noticeText = el("span", "");
  readonly #watchButton: HTMLButtonElement;
  readonly #settingsButton: HTMLButtonElement;
  readonly #settings: Settings;
  readonly #live: LivePanel;
  readonly #run: RunPanel;
  readonly #dock = el("div", "oj-dock");
  readonly #composer: Composer;
  #options = "";
  #visible = false;
  #request = 0;
  #later: ReturnType<typeof setTimeout> | undefined;
  #drawnAt = 0;
  #cost = 0;
  readonly #reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(
    private readonly store: ChatStore,
    parent: HTMLElement,
    signal: AbortSignal,
    host?: WidgetHost,
  ) {
    this.#settings = new Settings(store, signal);
    this.#settings.node.hidden = true;
    this.#live = new LivePanel(store, host, signal);
    this.#composer = new Composer(store, () => this.#follow(), signal);
    this.#run = new RunPanel(store, host, signal);
    this.#dock.append(this.#live.node, this.#run.node);
    const [focus, ask] = [() => this.#composer.focus(), (text: string) => this.#composer.ask(text)];
    this.#log = new MessageLog(store, focus, ask, signal);
    this.#settingsButton = button("Settings", "System prompt, sampling, cache, export", () =>
      this.#openSettings(this.#settings.node.hidden === true),
    );
    this.#settings.node.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      this.#openSettings(false);
      this.#settingsButton.focus();
    });
    this.#settingsButton.setAttribute("aria-expanded", "false");
    this.#watchButton = button("Watch", "Show the run view while answers are written", () =>
      store.send({ type: "set", name: "watch", value: store.get("watch") !== true }),
    );
    this.#notice.append(
      this.#noticeText,
      button("Dismiss", "Hide this", () => store.send({ type: "dismiss" })),
    );
    this.root = rootElement("oj-root oj-chat");
    this.root.append(
      el(
        "div",
        "oj-frame",
        {},
        this.#head(signal),
        this.#settings.node,
        el("div", "oj-talk", {}, this.#log.node, this.#notice, this.#composer.node),
        this.#dock,
      ),
    );
    parent.append(this.root);
    this.#observe(signal);
  }

  /** Draw in the next animation frame, if anybody can see the view. */
  schedule(): void {
    if (!this.#visible || this.#request) return;
    const writing = this.store.state.running;
    const rest =
      this.#reducedMotion.matches && writing ? REDUCED_MOTION_REDRAW_MS : this.#cost * REST_FACTOR;
    const wait = this.#drawnAt + rest - performance.now();
    clearTimeout(this.#later);
    if (wait > 0) this.#later = setTimeout(() => this.schedule(), wait);
    else this.#request = requestAnimationFrame(() => this.#draw());
  }

  #openSettings(open: boolean): void {
    this.#settings.node.hidden = !open;
    this.#settingsButton.setAttribute("aria-expanded", String(open));
  }

  #head(signal: AbortSignal): HTMLElement {
    this.#pick.addEventListener(
      "change",
      () => this.store.send({ type: "switch", conversation: Number(this.#pick.value) }),
      { signal },
    );
    const add = button("New", "Start another conversation", () => this.store.send({ type: "new" }));
    const bar = el("div", "oj-bar", {}, this.#pick, add, this.#watchButton, this.#settingsButton);
    return el("div", "oj-chat-head", {}, bar, this.#context, this.#badge);
  }

  #observe(signal: AbortSignal): void {
    const changed = () => this.schedule();
    const rethemed = () => {
      readTheme(this.root);
      this.schedule();
    };
    const visibilityChanged = (visible: boolean) => {
      this.#visible = visible;
      rethemed();
    };
    watchVisibility(this.root, visibilityChanged, signal);
    watchSizes([this.root], changed, signal);
    watchTheme(rethemed, signal);
    const unlisten = this.store.listen(changed);
    signal.addEventListener("abort", () => {
      unlisten();
      cancelAnimationFrame(this.#request);
      clearTimeout(this.#later);
      this.root.remove();
    });
  }

  /** Scroll to the end with the next redraw, after the user sent a message. */
  #follow(): void {
    this.#log.follow();
    this.schedule();
  }

  #draw(): void {
    this.#request = 0;
    const started = performance.now();
    this.#drawnAt = started;
    const { state, info, notice } = this.store;
    this.#drawHead();
    setText(
      this.#badge,
      info.changed_output ? `⚠ not the model’s own: ${info.changed_output}` : "",
    );
    this.#badge.hidden = !info.changed_output;
    this.#settings.draw();
    const connected = this.store.connection.isOpen(this.root);
    this.#log.draw(connected && !this.store.closed);
    this.#live.draw();
    this.#run.draw(this.#log.showsRun);
    this.#dock.hidden = this.#live.node.hidden === true && this.#run.node.hidden === true;
    this.root.dataset.docked = String(!this.#dock.hidden);
    setText(this.#noticeText, notice);
    this.#notice.hidden = !notice;
    this.#composer.draw(connected);
    this.#watchButton.setAttribute("aria-pressed", String(this.store.get("watch") === true));
    this.root.dataset.status = state.running ? "running" : "idle";
    this.#cost += (performance.now() - started - this.#cost) / 4;
  }

  #drawHead(): void {
    const { state, info } = this.store;
    const options = JSON.stringify(state.conversations);
    if (options !== this.#options) {
      this.#options = options;
      this.#pick.replaceChildren(
        ...state.conversations.map(({ id, label }) =>
          el("option", "", { value: String(id) }, label),
        ),
      );
    }
    this.#pick.value = String(state.conversation);
    const size = info.context ?? 0;
    const of = size ? ` of ${integer(size)}` : "";
    const near = size > 0 && state.used > NEARLY_FULL * size;
    const used = `${integer(state.used)}${of} tokens of context`;
    setText(
      this.#context,
      `${info.model ?? ""} · ${used}${near ? warning(state.used / size) : ""}`,
    );
    this.#context.dataset.full = String(near);
  }
}

/** A warning about a context that is nearly full, or too long. */
function warning(share: number): string {
  return share > 1
    ? " · ⚠ more than the model can read: start another conversation"
    : ` · ⚠ ${Math.floor(share * 100)} % full: start another conversation soon`;
}
