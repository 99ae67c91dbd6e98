// The header: model, status, the Stop button, and four numbers with their course over the run.

import { consume } from "../charts/focus";
import { Sparkline } from "../charts/sparkline";
import { el, setText, setTitle } from "../widget/dom";
import { bytes, given, integer, NONE, percent, plural, short } from "../widget/format";
import { stop } from "../widget/stop";
import type { Theme } from "../widget/theme";
import { type Course, courses } from "./header-numbers";
import { isOver, type Status } from "./info";
import type { Playback } from "./playback";
import type { RunStore } from "./store";

const LABELS: Record<string, string> = {
  waiting: "Waiting",
  stop: "Done",
  length: "Done, token limit reached",
  interrupted: "Stopped early",
  error: "Failed",
};

const READERS: Record<string, string> = {
  pread: "pread (through the page cache)",
  direct: "direct (past the page cache)",
  mmap: "mmap (through the page cache)",
};

/** The names of the numbers that are always shown; all but the last with their course. */
const TILES = ["tokens/s", "hit rate (decode)", "MB read", "time to first token"] as const;

/** The names of the numbers behind "More". */
const MORE = ["tokens", "hit rate (prefill)", "lookups", "in RAM", "reader"] as const;

export class Header {
  readonly node: HTMLElement;
  readonly #model = el("strong", "oj-model");
  readonly #status = el("span", "oj-status", { role: "status" });
  readonly #pace = el("span", "oj-pace");
  readonly #badge = el("span", "oj-badge");
  readonly #stopButton = el("button", "oj-button oj-stop", { type: "button" }, "Stop");
  readonly #note = el("div", "oj-note", { role: "status" });
  readonly #values = new Map<string, HTMLElement>();
  readonly #sparklines = TILES.slice(0, -1).map(() => new Sparkline());
  readonly #more = el("details", "oj-more");
  #at: number | null = null;
  #courses: Course[] = [];
  /** What `courses` was made from. */
  #coursesMade = "";
  #message = "";

  constructor(
    private readonly store: RunStore,
    private readonly changed: () => void,
    signal: AbortSignal,
  ) {
    this.#stopButton.addEventListener("click", () => void this.#stop(), { signal });
    // Not a <dl>, because notebooks style those.
    const tiles = TILES.map((name, n) => this.#number(name, this.#sparklines[n]?.node ?? ""));
    const numbers = el("div", "oj-numbers", { role: "group", "aria-label": "Numbers" }, ...tiles);
    const rest = el("div", "oj-more-numbers", {}, ...MORE.map((name) => this.#number(name)));
    const more = this.#more;
    more.append(el("summary", "oj-button", {}, "More"), rest);
    const pressed = (event: KeyboardEvent) => {
      if (event.key !== "Escape" || !more.open) return;
      more.open = false;
      if (this.node.contains(event.target as Node)) consume(event);
    };
    const clicked = (event: Event) => {
      if (!event.composedPath().includes(more)) more.open = false;
    };
    document.addEventListener("keydown", pressed, { capture: true, signal });
    document.addEventListener("pointerdown", clicked, { signal });
    const title = el("div", "oj-title", {}, this.#model, this.#status, this.#pace);
    title.append(this.#stopButton, this.#badge);
    this.node = el("div", "oj-header", {}, title, numbers, more, this.#note);
  }

  /** A number below its name, and what else belongs to it. */
  #number(name: string, ...others: (Node | string)[]): HTMLElement {
    const value = el("span", "oj-value", {}, NONE);
    this.#values.set(name, value);
    return el("div", "oj-number", {}, el("span", "oj-name", {}, name), " ", value, ...others);
  }

  draw(connected: boolean, playback: Playback, theme: Theme): void {
    const { info, status } = this.store;
    const { at } = playback;
    const lost = (!connected || this.store.lost) && !isOver(status);
    setText(this.#model, info.model ?? "");
    const replaying = playback.playing && isOver(status) ? " · replaying" : "";
    setText(this.#status, (lost ? "Disconnected" : this.#statusText(status)) + replaying);
    this.#status.dataset.status = lost ? "error" : status;
    this.#stopButton.hidden = lost || isOver(status);
    const changed = info.changed_output ?? "";
    this.#badge.hidden = !changed;
    setText(this.#badge, changed ? `⚠ not the model’s own output: ${changed}` : "");
    setText(this.#pace, this.#paceText(playback));
    this.#pace.hidden = !this.#pace.textContent;
    this.#drawNumbers();
    if (at !== this.#at && at !== null && !playback.playing) this.#more.open = false;
    this.#at = at;
    this.#coursesNow().forEach(({ from, values }: Course, n) => {
      const inside = at !== null && at >= from && at < from + values.length;
      this.#sparklines[n].draw(values, inside ? at - from : null, theme);
    });
    setText(this.#note, this.#noteText(lost));
    this.#note.hidden = !this.#note.textContent;
  }

  #drawNumbers(): void {
    const { state, info } = this.store;
    const { totals } = state;
    const nbytes = info.expert_nbytes ?? 0;
    const reader = info.reader ?? "";
    const { decode, prefill, all } = state.hitRates;
    const first = state.firstTokenMs;
    this.#set("tokens/s", short(state.tokensPerSecond), plural(state.generated, "token"));
    this.#set("hit rate (decode)", percent(decode), `${percent(prefill)} in prefill`);
    this.#set("MB read", short(totals.nbytes / 1e6), this.#readsText());
    this.#set(
      "time to first token",
      first < 1000 ? `${short(first)}\u202fms` : `${short(first / 1000)}\u202fs`,
      plural(state.promptTokens, "prompt token"),
    );
    this.#set("tokens", integer(state.generated), plural(state.promptTokens, "prompt token"));
    this.#set("hit rate (prefill)", percent(prefill));
    this.#set("lookups", `${integer(totals.lookups)} (${percent(all)} hits)`);
    const resident = nbytes ? bytes(nbytes * state.residentCount) : integer(state.residentCount);
    this.#set("in RAM", resident, [info.cache, plural(state.residentCount, "expert")].join(" · "));
    this.#set("reader", READERS[reader] ?? (reader || NONE), info.reader_note ?? "");
  }

  /** A prompt's tokens share the read of an expert that several miss, so reads may be fewer. */
  #readsText(): string {
    const { reads, lookups, hits } = this.store.state.totals;
    const misses = lookups - hits;
    if (reads >= misses) return plural(reads, "read");
    return `${plural(reads, "read")} for ${integer(misses)} misses: tokens read together share one`;
  }

  #set(name: string, text: string, title = ""): void {
    const node = this.#values.get(name)!;
    setText(node, text);
    setTitle(node, title);
  }

  #statusText(status: Status): string {
    if (status !== "running") return LABELS[status] ?? status;
    return this.store.state.generated ? "Generating" : "Reading the prompt";
  }

  /** The courses, made again only when there are further tokens. */
  #coursesNow(): Course[] {
    const { epoch, steps } = this.store.state;
    const made = `${epoch} ${steps.first} ${steps.end}`;
    if (made !== this.#coursesMade) this.#courses = courses(this.store.state);
    this.#coursesMade = made;
    return this.#courses;
  }

  #paceText({ at, playing, pace }: Playback): string {
    if (!playing || pace === null) return at === null ? "" : "numbers of all tokens";
    const computed = short(this.store.state.tokensPerSecond);
    return `shown at ${given(pace)} tokens/s, computed at ${computed}`;
  }

  #noteText(lost: boolean): string {
    if (lost) return "Kernel disconnected. Run the cell again to continue.";
    if (this.store.problem) return `Frames cannot be read: ${this.store.problem}.`;
    if (this.store.state.stale && this.store.running) {
      return "Some messages were lost; the view catches up with the next snapshot.";
    }
    const { branched, memory_note } = this.store.info;
    const notes = [branched, memory_note].filter(Boolean).join(" ");
    return (this.store.running && this.#message) || notes;
  }

  async #stop(): Promise<void> {
    this.#stopButton.disabled = true;
    const outcome = await stop(
      this.store.kernelId,
      () => this.store.send({ type: "stop" }),
      () => this.store.running,
    );
    this.#message = {
      interrupted: "Stopping…",
      gone: "The server no longer has this kernel.",
      requested:
        "Stop requested. If the run continues, interrupt the kernel from the notebook " +
        "(Kernel → Interrupt, or the stop button of the cell).",
    }[outcome];
    this.#stopButton.disabled = false;
    this.changed();
  }
}
