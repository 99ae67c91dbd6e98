// The header: model, status, main numbers, and the Stop button.

import { el, setText } from "../widget/dom";
import { bytes, integer, NONE, percent, plural, short } from "../widget/format";
import { stop } from "../widget/stop";
import { isOver, type Status } from "./info";
import type { RunStore } from "./store";

const LABELS: Record<string, string> = {
  waiting: "Waiting",
  stop: "Done",
  length: "Done, token limit reached",
  interrupted: "Interrupted",
  error: "Failed",
};

const READERS: Record<string, string> = {
  pread: "pread (through the page cache)",
  direct: "direct (past the page cache)",
  mmap: "mmap (through the page cache)",
};

/** The names of the numbers; the static view uses the same. */
const NUMBERS = [
  ...["tokens/s", "tokens", "hit rate in decode", "hit rate in prefill", "read from SSD"],
  ...["in RAM", "reads"],
];

export class Header {
  readonly node: HTMLElement;
  private readonly model = el("strong", "oj-model");
  private readonly status = el("span", "oj-status", { role: "status" });
  private readonly badge = el("span", "oj-badge");
  private readonly stopButton = el("button", "oj-button oj-stop", { type: "button" }, "Stop");
  private readonly note = el("div", "oj-note", { role: "status" });
  private readonly values = new Map<string, HTMLElement>();
  private message = "";

  constructor(
    private readonly store: RunStore,
    private readonly changed: () => void,
    signal: AbortSignal,
  ) {
    this.stopButton.addEventListener("click", () => void this.stop(), { signal });
    // Not a <dl>, because notebooks style those.
    const numbers = el("div", "oj-numbers", { role: "group", "aria-label": "Numbers" });
    for (const name of NUMBERS) {
      const value = el("span", "oj-value", {}, NONE);
      this.values.set(name, value);
      numbers.append(el("div", "", {}, el("span", "oj-name", {}, name), " ", value));
    }
    const title = el("div", "oj-title", {}, this.model, this.status, this.stopButton, this.badge);
    this.node = el("div", "oj-header", {}, title, numbers, this.note);
  }

  draw(connected: boolean): void {
    const { info, status } = this.store;
    const lost = (!connected || this.store.lost) && !isOver(status);
    setText(this.model, info.model ?? "");
    setText(this.status, lost ? "Kernel gone" : this.statusText(status));
    this.status.dataset.status = lost ? "error" : status;
    this.stopButton.hidden = lost || isOver(status);
    const changed = info.changed_output ?? "";
    this.badge.hidden = !changed;
    setText(this.badge, changed ? `⚠ not the model’s own output: ${changed}` : "");
    this.drawNumbers();
    setText(this.note, this.noteText(lost));
    this.note.hidden = !this.note.textContent;
  }

  private drawNumbers(): void {
    const { state, info } = this.store;
    const { totals } = state;
    const nbytes = info.expert_nbytes ?? 0;
    const reader = info.reader ?? "";
    this.set("tokens/s", short(state.tokensPerSecond));
    this.set("tokens", integer(state.generated), `${plural(state.promptTokens, "prompt token")}`);
    const { decode, prefill, all } = state.hitRates;
    const whole = `${percent(all)} of all ${integer(totals.lookups)} lookups`;
    this.set("hit rate in decode", percent(decode), whole);
    this.set("hit rate in prefill", percent(prefill), whole);
    this.set("read from SSD", bytes(totals.nbytes), plural(totals.reads, "read"));
    const resident = nbytes ? bytes(nbytes * state.residentCount) : integer(state.residentCount);
    this.set("in RAM", resident, [info.cache, plural(state.residentCount, "expert")].join(" · "));
    this.set("reads", READERS[reader] ?? (reader || NONE), info.reader_note ?? "");
  }

  private set(name: string, text: string, title = ""): void {
    const node = this.values.get(name)!;
    setText(node, text);
    if (node.title !== title) node.title = title;
  }

  private statusText(status: Status): string {
    if (status !== "running") return LABELS[status] ?? status;
    return this.store.state.generated ? "Generating" : "Reading the prompt";
  }

  private noteText(lost: boolean): string {
    if (lost) return "The kernel is gone; this is what had arrived until then.";
    if (this.store.problem) return `Frames cannot be read: ${this.store.problem}.`;
    if (this.store.state.stale && this.store.running) {
      return "Some messages were lost; the view catches up with the next snapshot.";
    }
    return this.store.running ? this.message : "";
  }

  private async stop(): Promise<void> {
    this.stopButton.disabled = true;
    const outcome = await stop(
      this.store.kernelId,
      () => this.store.send({ type: "stop" }),
      () => this.store.running,
    );
    this.message = {
      interrupted: "Stopping…",
      gone: "The server no longer has this kernel.",
      requested:
        "Stop requested. If the run continues, interrupt the kernel from the notebook " +
        "(Kernel → Interrupt, or the stop button of the cell).",
    }[outcome];
    this.stopButton.disabled = false;
    this.changed();
  }
}
