// One run's state on the browser side, shared by all its views: messages in, state out.
//
// The message handler only copies bytes and returns, because the host handles messages one after
// another; the folding happens when a view draws.

import { MAX_QUEUED, UNSEEN_MS } from "./limits";
import { copyBytes, decode, FrameError } from "./frames";
import type { Info, Model, Status } from "../widget/host";
import { isOver } from "../widget/host";
import { Lifeline } from "../widget/connection";
import { RunState } from "./state";
import { Watch } from "../widget/kernel-monitor";

/** A token, by its step, or an expert: what Python can be asked about. */
export type About = { step: number } | { layer: number; expert: number };

export class Store {
  readonly state = new RunState();
  /** Why frames cannot be read, "" while they can. */
  problem = "";
  private readonly queue: Uint8Array<ArrayBuffer>[] = [];
  private readonly listeners = new Set<() => void>();
  private asked = false;
  /** How seldom each view wants frames, and what the kernel was asked for last, in ms. */
  private readonly paces = new Map<object, number>();
  private pace = 0;
  private seen: unknown = null;
  /** What Python said about what; "" while it was asked and has not answered. */
  private readonly answers = new Map<string, string>();

  readonly lifeline: Lifeline;
  private readonly watch: Watch;

  constructor(private readonly model: Model) {
    this.watch = new Watch(
      () => this.kernelId,
      () => this.status === "running",
      () => this.notify(),
    );
    model.on("msg:custom", this.onMessage as never);
    model.on("change:snapshot", this.onSnapshot);
    model.on("change:status", this.notify);
    model.on("change:info", this.notify);
    this.lifeline = new Lifeline(model, () => this.send({ type: "resync" }), this.notify);
    this.onSnapshot();
    // A page that was reloaded in the middle of a run: the trait may be some seconds old.
    if (this.status === "running") this.askForSnapshot();
  }

  close(): void {
    this.watch.close();
    this.model.off("msg:custom", this.onMessage as never);
    this.model.off("change:snapshot", this.onSnapshot);
    this.model.off("change:status", this.notify);
    this.model.off("change:info", this.notify);
    this.lifeline.close();
    this.listeners.clear();
  }

  get info(): Info {
    return (this.model.get("info") ?? {}) as Info;
  }

  get status(): Status {
    return (this.model.get("status") ?? "waiting") as Status;
  }

  get running(): boolean {
    return !isOver(this.status);
  }

  /** The kernel died in the middle of the run, as far as can be told. */
  get lost(): boolean {
    return this.watch.lost;
  }

  get kernelId(): string {
    return String(this.model.get("kernel_id") ?? "");
  }

  send(content: object): void {
    this.model.send(content);
  }

  /**
   * A view wants a frame at most every so many ms; 0 leaves it to the kernel, null: it is gone. The
   * kernel is asked for what the most eager view wants. It may hear of it late; no harm is done.
   */
  want(view: object, ms: number | null): void {
    if (ms === null) this.paces.delete(view);
    else this.paces.set(view, ms);
    const pace = this.paces.size ? Math.min(...this.paces.values()) : UNSEEN_MS;
    if (pace === this.pace || !this.running) return;
    this.pace = pace;
    this.send({ type: "pace", ms: pace });
  }

  /** Python's words about a token or an expert, null until they come; asked for once, when over. */
  told(about: About): string | null {
    if (this.running) return null;
    const key = keyOf(about);
    if (!this.answers.has(key)) {
      this.answers.set(key, "");
      this.send({ type: "ask", about });
    }
    return this.answers.get(key) || null;
  }

  /** Call `listener` when there may be something to draw; returns how to stop that. */
  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Fold what has arrived. */
  drain(): void {
    for (const bytes of this.queue.splice(0)) this.fold(bytes);
  }

  private readonly notify = (): void => {
    for (const listener of this.listeners) listener();
  };

  private readonly onMessage = (content: Message, buffers?: DataView[]): void => {
    if (content?.type === "told" && content.about) {
      this.answers.set(keyOf(content.about), String(content.words ?? ""));
      this.notify();
      return;
    }
    if (content?.type !== "frame" || !buffers?.length) return;
    this.watch.heard();
    this.queue.push(copyBytes(buffers[0]));
    if (this.queue.length > MAX_QUEUED) this.drain();
    this.notify();
  };

  private readonly onSnapshot = (): void => {
    const value = this.model.get("snapshot") as DataView | ArrayBuffer | null | undefined;
    if (!value || value.byteLength === 0 || value === this.seen) return;
    this.seen = value;
    this.drain(); // frames that came before it
    this.fold(copyBytes(value));
    this.notify();
  };

  private fold(bytes: Uint8Array<ArrayBuffer>): void {
    try {
      const result = this.state.apply(decode(bytes));
      if (result === "applied") this.asked = false;
      if (result === "gap") this.askForSnapshot();
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.problem = error.message;
    }
  }

  /** Once for each gap: in a busy kernel the answer may take as long as the cell. */
  private askForSnapshot(): void {
    if (this.asked) return;
    this.asked = true;
    this.model.send({ type: "resync" });
  }
}

interface Message {
  type?: string;
  about?: About;
  words?: string;
}

function keyOf(about: About): string {
  return "step" in about ? `step ${about.step}` : `expert ${about.layer}:${about.expert}`;
}
