// A chat as Python tells it: the last whole state, and the text that came since.
//
// Whatever carries a number that does not follow the last one is a gap, and the whole is asked
// for. A state replaces everything before it.

import type { Model } from "../widget/host";
import { Lifeline } from "../widget/connection";
import { isBehind, replaceSaved } from "./saved";

/** What is told of the run that wrote an answer. */
type Counted =
  | ("prompt" | "reused" | "generated" | "run")
  | ("tokens_per_second" | "decode_hit_rate" | "prefill_hit_rate");

export interface Message {
  id: number;
  role: "user" | "assistant";
  text: string;
  ended: "" | "running" | "stop" | "length" | "interrupted" | "error";
  note: string;
  numbers: Partial<Record<Counted, number>>;
  siblings: number[];
}

export interface State {
  seq: number;
  conversation: number;
  title: string;
  conversations: { id: number; label: string }[];
  messages: Message[];
  earlier: number;
  running: boolean;
  elsewhere: number;
  used: number;
  /** How far the prompt of the answer under way is read; null once it is. */
  reading?: Reading | null;
}

export interface Reading {
  message: number;
  read: number;
  of: number;
}

export interface Control {
  group: string;
  name: string;
  label: string;
  help: string;
  kind: "int" | "float" | "bool";
  default: number | boolean | null;
  least: number | null;
  most: number | null;
  step: number;
}

export interface About {
  model?: string;
  context?: number | null;
  slots?: number;
  experts?: number;
  bank_nbytes?: number;
  token_experts?: number;
  changed_output?: string;
}

/** Messages about one change come together. */
const TOGETHER_MS = 300;

const NOTHING: State = {
  seq: 0,
  conversation: 0,
  title: "",
  conversations: [],
  messages: [],
  earlier: 0,
  running: false,
  elsewhere: 0,
  used: 0,
};

interface Incoming {
  type?: string;
  seq?: number;
  conversation?: number;
  message?: number;
  text?: string;
  state?: State;
  request?: string;
  name?: string;
  run?: number;
  html?: string;
  data?: object;
  reading?: Reading | null;
}

export class ChatStore {
  state: State = NOTHING;
  /** What is in the message box; kept here so that two views and a reload have the same. */
  draft: string;
  /** The static view of the run that is shown, where this page cannot show its widget. */
  html: { run: number; text: string } | null = null;
  readonly lifeline: Lifeline;
  private readonly listeners = new Set<() => void>();
  private readonly waiting = new Map<string, (accepted: boolean) => void>();
  private asked = false;
  private count = 0;
  private draftTimer: ReturnType<typeof setTimeout> | undefined;
  private savedTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly model: Model) {
    this.draft = String(model.get("draft") ?? "");
    model.on("msg:custom", this.onMessage as never);
    model.on("change", this.notify);
    model.on("change:state", this.onState);
    model.on("change:draft", this.onDraft);
    model.on("change:saved", this.onSaved);
    this.lifeline = new Lifeline(model, () => this.send({ type: "resync" }), this.notify);
    this.onState();
    this.onSaved();
    // A page that was reloaded in the middle of an answer: the trait may be some seconds old.
    if (this.state.running) this.askForAll();
  }

  close(): void {
    clearTimeout(this.draftTimer);
    clearTimeout(this.savedTimer);
    this.model.off("msg:custom", this.onMessage as never);
    this.model.off("change", this.notify);
    this.model.off("change:state", this.onState);
    this.model.off("change:draft", this.onDraft);
    this.model.off("change:saved", this.onSaved);
    this.lifeline.close();
    this.listeners.clear();
  }

  get about(): About {
    return (this.model.get("info") ?? {}) as About;
  }

  get controls(): Control[] {
    return (this.model.get("controls") ?? []) as Control[];
  }

  get notice(): string {
    return String(this.model.get("notice") ?? "");
  }

  get closed(): boolean {
    return this.model.get("status") === "closed";
  }

  /** Whether a cell waits for the answer, so that no message is read before it is there. */
  get blocking(): boolean {
    return this.model.get("blocking") === true;
  }

  get kernelId(): string {
    return String(this.model.get("kernel_id") ?? "");
  }

  /** The chat's own name, which what the notebook keeps of it has as a class. */
  get viewId(): string {
    return String(this.model.get("view_id") ?? "");
  }

  /** Which run is shown under its answer (0 for none), or why it cannot be. */
  get runShown(): { run: number; note: string } {
    return { run: 0, note: "", ...(this.model.get("run_shown") as object | undefined) };
  }

  get(name: string): unknown {
    return this.model.get(name);
  }

  send(content: object): void {
    this.model.send(content);
  }

  /** Send what may be refused; resolves to whether it was taken. */
  request(content: object): Promise<boolean> {
    this.count += 1;
    const request = `${Date.now()}-${Math.random()}-${this.count}`;
    this.model.send({ ...content, request });
    return new Promise((resolve) => this.waiting.set(request, resolve));
  }

  /** Remember what is being typed, and tell Python when typing rests. */
  setDraft(text: string): void {
    this.draft = text;
    clearTimeout(this.draftTimer);
    this.draftTimer = setTimeout(() => this.send({ type: "draft", text }), 400);
    this.notify();
  }

  /** The draft was taken: Python has emptied it, too. */
  clearDraft(): void {
    clearTimeout(this.draftTimer);
    this.draft = "";
    this.notify();
  }

  /** Call `listener` when there may be something to draw; returns how to stop that. */
  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  readonly notify = (): void => {
    for (const listener of this.listeners) listener();
  };

  private readonly onMessage = (content: Incoming): void => {
    if (content?.type === "text") this.grow(content);
    else if (content?.type === "reading") this.read(content);
    else if (content?.type === "state" && content.state) this.take(content.state);
    else if (content?.type === "accepted" || content?.type === "refused") this.settle(content);
    else if (content?.type === "file") download(content.name ?? "", content.text ?? "");
    else if (content?.type === "run")
      this.html = { run: content.run ?? 0, text: content.html ?? "" };
    else if (content?.type === "saved" && content.data)
      replaceSaved(this.model.widget_manager, this.viewId, content.data);
    else return;
    this.notify();
  };

  private readonly onState = (): void => {
    this.take(this.model.get("state") as State | undefined);
    this.notify();
  };

  private readonly onDraft = (): void => {
    const text = String(this.model.get("draft") ?? "");
    // An echo of what was typed a moment ago must not undo what was typed since.
    if (text === "" || this.draft === "") this.draft = text;
    this.notify();
  };

  /** What the notebook keeps of the chat is updated before this is told, if this page hears of it. */
  private readonly onSaved = (): void => {
    clearTimeout(this.savedTimer);
    this.savedTimer = setTimeout(() => {
      const stamp = String(this.model.get("saved") ?? "");
      if (isBehind(this.model.widget_manager, this.viewId, stamp)) this.send({ type: "saved" });
    }, TOGETHER_MS);
  };

  private take(state: State | undefined): void {
    if (!state?.seq || state.seq < this.state.seq) return;
    // The trait's own object is not ours to write to.
    this.state = { ...state, messages: state.messages.map((message) => ({ ...message })) };
    this.asked = false;
  }

  private grow({ seq = 0, conversation, message, text = "" }: Incoming): void {
    const { state } = this;
    if (seq <= state.seq) return;
    if (seq !== state.seq + 1) {
      this.askForAll();
      return;
    }
    state.seq = seq;
    if (conversation !== state.conversation) return;
    const growing = state.messages.find((each) => each.id === message);
    if (growing) growing.text += text;
  }

  private read({ conversation, reading }: Incoming): void {
    if (conversation === this.state.conversation) this.state.reading = reading ?? null;
  }

  private settle({ type, request = "" }: Incoming): void {
    this.waiting.get(request)?.(type === "accepted");
    this.waiting.delete(request);
  }

  /** Once for each gap: in a busy kernel the answer may take as long as the cell. */
  private askForAll(): void {
    if (this.asked) return;
    this.asked = true;
    this.send({ type: "resync" });
  }
}

function download(name: string, text: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
