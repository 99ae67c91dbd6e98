// The state of a chat in the browser: Python's last full state, and the text that arrived since.
//
// A message whose number does not follow the last one reveals a gap; then the full state is
// requested. A full state replaces everything before it.

import { Connection } from "../widget/connection";
import type { Model } from "../widget/host";
import { Modules } from "../widget/module";
import { SavedView } from "../widget/saved";

/** The numbers of the run that wrote an answer. */
type RunNumber =
  | ("prompt" | "reused" | "generated" | "run")
  | "bytes_read"
  | ("tokens_per_second" | "decode_hit_rate" | "prefill_hit_rate");

export interface Message {
  id: number;
  role: "user" | "assistant";
  text: string;
  ended: "" | "running" | "stop" | "length" | "interrupted" | "error";
  note: string;
  numbers: Partial<Record<RunNumber, number>>;
  siblings: number[];
  /** What the model thought before its answer; its time and tokens once they are known. */
  thinking?: { text?: string; seconds?: number; tokens?: number };
  tool_calls?: ToolCall[];
}

/** A call of a tool that an answer has; `result` is what the model reads of it. */
export interface ToolCall {
  id: string;
  name: string;
  arguments: Record<string, unknown>;
  state: "proposed" | "running" | "done" | "failed" | "refused";
  result: string;
}

export interface ChatState {
  seq: number;
  conversation: number;
  title: string;
  conversations: { id: number; label: string }[];
  messages: Message[];
  earlier: number;
  running: boolean;
  elsewhere: number;
  used: number;
  /** How much of the prompt of the current answer has been read; null once all is. */
  reading?: PromptProgress | null;
}

export interface PromptProgress {
  message: number;
  read: number;
  of: number;
}

/** An option that the user can set, as Python describes it. */
export interface Control {
  group: string;
  name: string;
  label: string;
  help: string;
  /** A number, a switch, one of `choices`, or several texts. */
  kind: "int" | "float" | "bool" | "choice" | "texts";
  choices?: string[];
  default: number | boolean | string | string[] | null;
  least: number | null;
  most: number | null;
  step: number;
}

/** The trait `info`; any entry may be missing. */
export interface ChatInfo {
  model?: string;
  context?: number | null;
  slots?: number;
  experts?: number;
  bank_nbytes?: number;
  token_experts?: number;
  changed_output?: string;
}

const EMPTY: ChatState = {
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
  /** Of text: "thinking" where it is not the answer's. */
  kind?: string;
  state?: ChatState;
  request?: string;
  name?: string;
  run?: number;
  html?: string;
  reading?: PromptProgress | null;
}

export class ChatStore {
  state: ChatState = EMPTY;
  /** The text in the message box, kept here so that all views share it. */
  draft: string;
  /** The static view of the shown run, for pages that cannot show its widget. */
  html: { run: number; text: string } | null = null;
  readonly connection: Connection;
  readonly #listeners = new Set<() => void>();
  readonly #requests = new Map<string, (accepted: boolean) => void>();
  #stateRequested = false;
  #count = 0;
  #draftTimer: ReturnType<typeof setTimeout> | undefined;
  readonly saved: SavedView;
  readonly modules: Modules;

  constructor(private readonly model: Model) {
    this.draft = String(model.get("draft") ?? "");
    model.on("msg:custom", this.#onMessage as never);
    model.on("change", this.notify);
    model.on("change:state", this.#onState);
    model.on("change:draft", this.#onDraft);
    this.saved = new SavedView(model);
    this.modules = new Modules(model, this.notify);
    this.connection = new Connection(model, () => this.send({ type: "resync" }), this.notify);
    this.#onState();
    // After a reload in the middle of an answer the trait may be some seconds old.
    if (this.state.running) this.#requestState();
  }

  close(): void {
    clearTimeout(this.#draftTimer);
    this.model.off("msg:custom", this.#onMessage as never);
    this.model.off("change", this.notify);
    this.model.off("change:state", this.#onState);
    this.model.off("change:draft", this.#onDraft);
    this.saved.close();
    this.modules.close();
    this.connection.close();
    this.#listeners.clear();
  }

  get info(): ChatInfo {
    return (this.model.get("info") ?? {}) as ChatInfo;
  }

  /** Prompts that an empty chat offers. */
  get starters(): string[] {
    return (this.model.get("starters") ?? []) as string[];
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

  /** Whether a cell waits for the answer: until it ends the kernel reads no messages. */
  get blocking(): boolean {
    return this.model.get("blocking") === true;
  }

  get kernelId(): string {
    return String(this.model.get("kernel_id") ?? "");
  }

  /** The run shown below its answer (0 for none), or a note why it cannot be shown. */
  get runShown(): { run: number; note: string } {
    return { run: 0, note: "", ...(this.model.get("run_shown") as object | undefined) };
  }

  get(name: string): unknown {
    return this.model.get(name);
  }

  send(content: object): void {
    this.model.send(content);
  }

  /** Send a request; resolves to whether Python accepted it. */
  request(content: object): Promise<boolean> {
    this.#count += 1;
    const request = `${Date.now()}-${Math.random()}-${this.#count}`;
    this.model.send({ ...content, request });
    return new Promise((resolve) => this.#requests.set(request, resolve));
  }

  /** Keep the text being typed, and send it to Python after a pause. */
  setDraft(text: string): void {
    this.draft = text;
    clearTimeout(this.#draftTimer);
    this.#draftTimer = setTimeout(() => this.send({ type: "draft", text }), 400);
    this.notify();
  }

  /** Clear the draft after Python accepted the message, which clears Python's draft too. */
  clearDraft(): void {
    clearTimeout(this.#draftTimer);
    this.draft = "";
    this.notify();
  }

  /** Call `listener` when there may be something to draw; returns a function that ends it. */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  readonly notify = (): void => {
    for (const listener of this.#listeners) listener();
  };

  readonly #onMessage = (content: Incoming): void => {
    if (content?.type === "text") this.#appendText(content);
    else if (content?.type === "reading") this.#setProgress(content);
    else if (content?.type === "state" && content.state) this.#take(content.state);
    else if (content?.type === "accepted" || content?.type === "refused") this.#settle(content);
    else if (content?.type === "file") download(content.name ?? "", content.text ?? "");
    else if (content?.type === "run")
      this.html = { run: content.run ?? 0, text: content.html ?? "" };
    else return;
    this.notify();
  };

  readonly #onState = (): void => {
    this.#take(this.model.get("state") as ChatState | undefined);
    this.notify();
  };

  readonly #onDraft = (): void => {
    const text = String(this.model.get("draft") ?? "");
    // Python echoes the draft; an old echo must not overwrite what was typed since.
    if (text === "" || this.draft === "") this.draft = text;
    this.notify();
  };

  #take(state: ChatState | undefined): void {
    if (!state?.seq || state.seq < this.state.seq) return;
    // A copy, because the trait's own object must not be changed.
    this.state = { ...state, messages: state.messages.map((message) => ({ ...message })) };
    this.#stateRequested = false;
  }

  #appendText({ seq = 0, conversation, message, text = "", kind }: Incoming): void {
    const { state } = this;
    if (seq <= state.seq) return;
    if (seq !== state.seq + 1) {
      this.#requestState();
      return;
    }
    state.seq = seq;
    if (conversation !== state.conversation) return;
    const answer = state.messages.find((each) => each.id === message);
    if (answer && kind === "thinking")
      answer.thinking = { ...answer.thinking, text: (answer.thinking?.text ?? "") + text };
    else if (answer) answer.text += text;
  }

  #setProgress({ conversation, reading }: Incoming): void {
    if (conversation === this.state.conversation) this.state.reading = reading ?? null;
  }

  #settle({ type, request = "" }: Incoming): void {
    this.#requests.get(request)?.(type === "accepted");
    this.#requests.delete(request);
  }

  /** Request the full state, once per gap: a busy kernel may answer only after the cell. */
  #requestState(): void {
    if (this.#stateRequested) return;
    this.#stateRequested = true;
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
