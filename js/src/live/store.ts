// The state of one run in the browser, shared by all its views. It folds Python's messages.
//
// The message handler only copies bytes, because the host handles messages one after another. The
// bytes are folded when a view draws.

import type { TokenTimes } from "../charts/timeline";
import { Connection } from "../widget/connection";
import type { Model } from "../widget/host";
import { KernelMonitor } from "../widget/kernel-monitor";
import { SavedView } from "../widget/saved";
import { Alternatives, type Likely, type LikelyMessage } from "./alternatives";
import { type ColumnSource, type ColumnSubject, Columns, KINDS, recorded } from "./columns";
import { EvictionOrders, type OrdersMessage } from "./eviction-orders";
import { copyBytes, decode, type EvictionOrder, FrameError } from "./frames";
import { type Info, isOver, type Status } from "./info";
import { UNSEEN_MS } from "./limits";
import { RunState } from "./state";

/** Messages kept for the next redraw. Beyond that (the page is hidden) they are folded at once. */
export const MAX_QUEUED = 64;

/** What Python can explain: a token, by its step, or an expert. */
export type Subject = { step: number } | { layer: number; expert: number };

/** Python's answer about a token, from answers.py. */
export interface TokenAnswer extends TokenTimes {
  sentences: readonly string[];
  /** [layer, its wait, its misses], in words. */
  layers: readonly (readonly [string, string, string])[];
  notes: readonly string[];
}

export interface Explanation {
  words: string;
  token: TokenAnswer | undefined;
}

export class RunStore implements ColumnSource {
  readonly state = new RunState();
  /** Why frames cannot be decoded; "" while they can. */
  problem = "";
  readonly #orders = new EvictionOrders((step) =>
    this.send({ type: "ask", about: { order: step } }),
  );
  readonly #queue: Uint8Array<ArrayBuffer>[] = [];
  readonly #listeners = new Set<() => void>();
  #snapshotRequested = false;
  /** The interval that each view wants between frames, and the last one requested, in ms. */
  readonly #intervals = new Map<object, number>();
  #interval = 0;
  #lastSnapshot: unknown = null;
  /** Python's explanations; null while one is requested. */
  readonly #explanations = new Map<string, Explanation | null>();

  readonly #columns = new Columns((about) => this.send({ type: "ask", about }));
  readonly #alternatives = new Alternatives((step) =>
    this.send({ type: "ask", about: { alternatives: step } }),
  );
  /** What is known of the branch requested last: that it was requested, or why there is none. */
  branchNote = "";
  /** Why this page cannot show a branch; "" if it can. */
  noBranch = "";

  readonly connection: Connection;
  readonly saved: SavedView;
  readonly #monitor: KernelMonitor;

  constructor(private readonly model: Model) {
    this.#monitor = new KernelMonitor(
      () => this.kernelId,
      () => this.status === "running",
      () => this.#notify(),
    );
    model.on("msg:custom", this.#onMessage as never);
    model.on("change:snapshot", this.#onSnapshot);
    model.on("change:status", this.#notify);
    model.on("change:info", this.#onInfo);
    this.saved = new SavedView(model);
    this.connection = new Connection(model, () => this.send({ type: "resync" }), this.#notify);
    this.#onInfo();
    this.#onSnapshot();
    // After a reload in the middle of a run the trait may be some seconds old.
    if (this.status === "running") this.#requestSnapshot();
  }

  close(): void {
    this.#monitor.close();
    this.model.off("msg:custom", this.#onMessage as never);
    this.model.off("change:snapshot", this.#onSnapshot);
    this.model.off("change:status", this.#notify);
    this.model.off("change:info", this.#onInfo);
    this.connection.close();
    this.saved.close();
    this.#listeners.clear();
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

  /** Whether the kernel seems to have died in the middle of the run. */
  get lost(): boolean {
    return this.#monitor.lost;
  }

  get kernelId(): string {
    return String(this.model.get("kernel_id") ?? "");
  }

  send(content: object): void {
    this.model.send(content);
  }

  /**
   * Set the interval between frames that a view wants; 0 leaves it to the kernel, null removes the
   * view. The kernel gets the shortest interval of all views. It does no harm if that arrives late.
   */
  setFrameInterval(view: object, ms: number | null): void {
    if (ms === null) this.#intervals.delete(view);
    else this.#intervals.set(view, ms);
    const interval = this.#intervals.size ? Math.min(...this.#intervals.values()) : UNSEEN_MS;
    if (interval === this.#interval || !this.running) return;
    this.#interval = interval;
    this.send({ type: "pace", ms: interval });
  }

  /** The eviction order after a step, or now; null while it is not known. */
  orderAfter(step: number | null): EvictionOrder | null {
    const { state } = this;
    const last = state.steps.end - 1;
    if (step === null || step === last) return state.order;
    return this.running ? null : this.#orders.after(step, last);
  }

  /** Python's explanation, after the run; null until it arrives. With `ask` it is requested once. */
  explanation(about: Subject, ask = true): Explanation | null {
    if (this.running) return null;
    const key = keyOf(about);
    if (ask && !this.#explanations.has(key)) {
      this.#explanations.set(key, null);
      this.send({ type: "ask", about });
    }
    return this.#explanations.get(key) ?? null;
  }

  column(about: ColumnSubject): Float32Array | null {
    return this.running ? null : this.#columns.get(about, this.info);
  }

  columnProblem(about: ColumnSubject): string {
    return this.running
      ? "It is known when the run is over."
      : this.#columns.problem(about, this.info);
  }

  /** The code of each step's kind of token, see KINDS; null if that was not recorded. */
  get kinds(): Float32Array | null {
    return this.column({ column: "segment" });
  }

  /** The kind of the token that a step produced; "" if it is not known. */
  kindOf(step: number): string {
    return KINDS[this.kinds?.[step] ?? -1] ?? "";
  }

  /** Whether alternatives were recorded; only a finished run has them. */
  get hasAlternatives(): boolean {
    return !this.running && (!!this.info.likely || recorded(this.info, "alternatives"));
  }

  /** What the model found likely in the place of a step's token; null if it is not known, or not yet. */
  likely(step: number): Likely | null {
    const { likely } = this.info;
    return likely ? (likely[step] ?? null) : this.#alternatives.of(step);
  }

  /** Why the run cannot go on from one of its tokens with another; "" if it can. */
  get branchProblem(): string {
    return this.info.columns
      ? "This page has no kernel: run the notebook to go on from here."
      : this.noBranch;
  }

  /** Go on from a step with another token: Python starts a run, and shows it. */
  branch(step: number, choose: number): void {
    const token = step - this.state.firstToken + 1;
    this.branchNote = `Going on from token ${token}…`;
    this.send({ type: "branch", token, choose });
    this.#notify();
  }

  /** Call `listener` when there may be something to draw; returns a function that ends it. */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Fold the messages that have arrived. */
  drain(): void {
    for (const bytes of this.#queue.splice(0)) this.#fold(bytes);
  }

  readonly #notify = (): void => {
    for (const listener of this.#listeners) listener();
  };

  readonly #onMessage = (content: LiveMessage, buffers: DataView[] = []): void => {
    const words = String(content?.words ?? "");
    switch (content?.type) {
      case "told":
        this.#takeAnswer(content, words, buffers[0]);
        break;
      case "orders":
        this.#orders.take(content as OrdersMessage, buffers[0]);
        break;
      case "branched":
        this.branchNote = words;
        break;
      case "frame":
        if (!buffers.length) return;
        this.#monitor.messageArrived();
        this.#queue.push(copyBytes(buffers[0]));
        if (this.#queue.length > MAX_QUEUED) this.drain();
        break;
      default:
        return;
    }
    this.#notify();
  };

  #takeAnswer(content: LiveMessage, words: string, buffer: DataView | undefined): void {
    const { about, token } = content;
    if (!about) return;
    if ("alternatives" in about) this.#alternatives.take(content as LikelyMessage);
    else if ("column" in about) this.#columns.take(about, words, buffer);
    else this.#explanations.set(keyOf(about), { words, token });
  }

  readonly #onInfo = (): void => {
    const { state } = this;
    const { prefilled = 0 } = this.info;
    if (prefilled !== state.prefilled) state.textEpoch += 1;
    state.prefilled = prefilled;
    this.#notify();
  };

  readonly #onSnapshot = (): void => {
    const value = this.model.get("snapshot") as DataView | ArrayBuffer | null | undefined;
    if (!value || value.byteLength === 0 || value === this.#lastSnapshot) return;
    this.#lastSnapshot = value;
    this.drain(); // the frames before the snapshot
    this.#fold(copyBytes(value));
    this.#notify();
  };

  #fold(bytes: Uint8Array<ArrayBuffer>): void {
    try {
      const result = this.state.apply(decode(bytes));
      if (result === "applied") this.#snapshotRequested = false;
      if (result === "gap") this.#requestSnapshot();
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.problem = error.message;
    }
  }

  /** Request a snapshot, once per gap: a busy kernel may answer only after the cell. */
  #requestSnapshot(): void {
    if (this.#snapshotRequested) return;
    this.#snapshotRequested = true;
    this.model.send({ type: "resync" });
  }
}

interface LiveMessage extends Partial<Omit<OrdersMessage, "type">> {
  type?: string;
  about?: Subject | ColumnSubject | LikelyMessage["about"];
  likely?: LikelyMessage["likely"];
  words?: string;
  token?: TokenAnswer;
}

function keyOf(about: Subject): string {
  return "step" in about ? `step ${about.step}` : `expert ${about.layer}:${about.expert}`;
}
