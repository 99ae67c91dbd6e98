// One view of a chat: head, messages, composer; redrawn at most once an animation frame.

import { CALM_REDRAW_MS, REST } from "../constants";
import { el, setText } from "../dom";
import { integer } from "../format";
import { readTheme, watchTheme } from "../theme";
import { Composer } from "./composer";
import { type Host, LivePanel } from "./live";
import { button, MessageNode } from "./message";
import { Settings } from "./settings";
import type { ChatStore } from "./store";

/** ipywidgets puts this class on a widget whose kernel is gone. */
const DISCONNECTED = ".jupyter-widgets-disconnected";
const FULL = 0.9;
/** Pixels from the end of the log that still count as its end. */
const NEAR = 40;

export class ChatView {
  readonly root: HTMLElement;
  private readonly pick = el("select", "oj-input oj-pick", { "aria-label": "Conversation" });
  private readonly context = el("span", "oj-facts oj-context");
  private readonly badge = el("div", "oj-problem");
  private readonly log = el("div", "oj-messages", { role: "log", tabindex: "0" });
  private readonly earlier = el("div", "oj-facts oj-earlier");
  private readonly empty = el("div", "oj-start");
  private readonly notice = el("div", "oj-notice", { role: "alert" });
  private readonly noticeText = el("span", "");
  private readonly watchButton: HTMLButtonElement;
  private readonly settingsButton: HTMLButtonElement;
  private readonly settings: Settings;
  private readonly live: LivePanel;
  private readonly composer: Composer;
  private readonly nodes = new Map<number, MessageNode>();
  private conversation = 0;
  private options = "";
  private visible = false;
  private request = 0;
  private later: ReturnType<typeof setTimeout> | undefined;
  private drawnAt = 0;
  private cost = 0;
  /** Whether the log stays at its end as it grows, or as it is made narrower. */
  private following = true;
  private readonly calm = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(
    private readonly store: ChatStore,
    parent: HTMLElement,
    signal: AbortSignal,
    host?: Host,
  ) {
    this.log.setAttribute("aria-label", "Conversation");
    this.settings = new Settings(store, signal);
    this.settings.node.hidden = true;
    this.live = new LivePanel(store, host, signal);
    this.composer = new Composer(store, () => this.follow(), signal);
    this.settingsButton = button("Settings", "System prompt, sampling, export", () => {
      this.settings.node.hidden = !this.settings.node.hidden;
      const open = String(!this.settings.node.hidden);
      this.settingsButton.setAttribute("aria-expanded", open);
    });
    this.settingsButton.setAttribute("aria-expanded", "false");
    this.watchButton = button("Watch", "Show the run view while answers are written", () =>
      store.send({ type: "set", name: "watch", value: store.get("watch") !== true }),
    );
    this.notice.append(
      this.noticeText,
      button("Dismiss", "Hide this", () => store.send({ type: "dismiss" })),
    );
    this.log.append(this.earlier, this.empty);
    // Without the attribute, typing here would trigger the notebook's shortcuts.
    this.root = el("div", "oj-root oj-chat", { "data-lm-suppress-shortcuts": "true" });
    this.root.append(
      el(
        "div",
        "oj-frame",
        {},
        this.head(signal),
        this.settings.node,
        this.log,
        this.live.node,
        this.notice,
        this.composer.node,
      ),
    );
    parent.append(this.root);
    this.watch(signal);
  }

  /** Draw with the next animation frame, if anybody can see it. */
  schedule(): void {
    if (!this.visible || this.request) return;
    const writing = this.store.state.running;
    const least = this.calm.matches && writing ? CALM_REDRAW_MS : this.cost * REST;
    const wait = this.drawnAt + least - performance.now();
    clearTimeout(this.later);
    if (wait > 0) this.later = setTimeout(() => this.schedule(), wait);
    else this.request = requestAnimationFrame(() => this.draw());
  }

  private head(signal: AbortSignal): HTMLElement {
    this.pick.addEventListener(
      "change",
      () => this.store.send({ type: "switch", conversation: Number(this.pick.value) }),
      { signal },
    );
    const add = button("New", "Begin another conversation", () => this.store.send({ type: "new" }));
    const bar = el("div", "oj-bar", {}, this.pick, add, this.watchButton, this.settingsButton);
    return el("div", "oj-chat-head", {}, bar, this.context, this.badge);
  }

  private watch(signal: AbortSignal): void {
    const changed = () => this.schedule();
    const rethemed = () => {
      readTheme(this.root);
      this.schedule();
    };
    const seen = new IntersectionObserver((entries) => {
      this.visible = entries[entries.length - 1].isIntersecting;
      rethemed();
    });
    seen.observe(this.root);
    const { log } = this;
    log.addEventListener(
      "scroll",
      () => {
        this.following = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
      },
      { signal, passive: true },
    );
    const resized = new ResizeObserver(changed);
    resized.observe(this.root);
    watchTheme(rethemed, signal);
    const unlisten = this.store.listen(changed);
    signal.addEventListener("abort", () => {
      unlisten();
      seen.disconnect();
      resized.disconnect();
      cancelAnimationFrame(this.request);
      clearTimeout(this.later);
      this.root.remove();
    });
  }

  /** Go to the end with the next redraw: somebody has just asked something. */
  private follow(): void {
    this.following = true;
    this.schedule();
  }

  private draw(): void {
    this.request = 0;
    const started = performance.now();
    this.drawnAt = started;
    const { state, about, notice } = this.store;
    this.drawHead();
    setText(
      this.badge,
      about.changed_output ? `⚠ not the model’s own: ${about.changed_output}` : "",
    );
    this.badge.hidden = !about.changed_output;
    this.settings.draw();
    this.drawMessages();
    this.live.draw();
    setText(this.noticeText, notice);
    this.notice.hidden = !notice;
    this.composer.draw(!this.root.closest(DISCONNECTED));
    this.watchButton.setAttribute("aria-pressed", String(this.store.get("watch") === true));
    this.root.dataset.status = state.running ? "running" : "idle";
    this.cost += (performance.now() - started - this.cost) / 4;
  }

  private drawHead(): void {
    const { state, about } = this.store;
    const options = JSON.stringify(state.conversations);
    if (options !== this.options) {
      this.options = options;
      this.pick.replaceChildren(
        ...state.conversations.map(({ id, label }) =>
          el("option", "", { value: String(id) }, label),
        ),
      );
    }
    this.pick.value = String(state.conversation);
    const size = about.context ?? 0;
    const of = size ? ` of ${integer(size)}` : "";
    setText(this.context, `${about.model ?? ""} · ${integer(state.used)}${of} tokens of context`);
    this.context.dataset.full = String(size > 0 && state.used > FULL * size);
    setText(this.empty, `Ask ${about.model ?? "the model"} something.`);
  }

  private drawMessages(): void {
    const { state } = this.store;
    const { log } = this;
    if (state.conversation !== this.conversation) {
      this.conversation = state.conversation;
      for (const { node } of this.nodes.values()) node.remove();
      this.nodes.clear();
      this.following = true;
    }
    const kept = new Set(state.messages.map((message) => message.id));
    for (const [id, { node }] of this.nodes) {
      if (kept.has(id)) continue;
      node.remove();
      this.nodes.delete(id);
    }
    let last: Element = this.empty;
    for (const message of state.messages) {
      const known = this.nodes.get(message.id);
      const shown = known ?? new MessageNode(this.store, message, () => this.schedule());
      if (!known) this.nodes.set(message.id, shown);
      if (last.nextElementSibling !== shown.node) last.after(shown.node);
      shown.draw(message, state.running);
      last = shown.node;
    }
    this.empty.hidden = state.messages.length > 0;
    this.earlier.hidden = state.earlier === 0;
    setText(
      this.earlier,
      `${integer(state.earlier)} earlier messages are in the file that Export saves.`,
    );
    if (this.following) log.scrollTop = log.scrollHeight;
  }
}
