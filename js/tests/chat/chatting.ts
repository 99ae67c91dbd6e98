// A chat with a mock of Python, made as anywidget makes it, and helpers to inspect it.

import formulaSymbols from "../../../outlier_jupyter/notebook/static/formula-symbols.js?raw";
import formulas from "../../../outlier_jupyter/notebook/static/formulas.js?raw";
import highlight from "../../../outlier_jupyter/notebook/static/highlight.js?raw";
import "../../src/chat.css";
import { expect, vi } from "vitest";
import widget from "../../src/chat";
import type { ChatState, Control, Message } from "../../src/chat/store";
import type { WidgetHost } from "../../src/widget/host";
import { MockModel, settled } from "../synthetic";

const CONTROL: Control = {
  ...{ group: "Sampling", name: "temperature", label: "temperature", help: "how hot" },
  ...{ kind: "float", default: 0, least: 0, most: null, step: 0.1 },
};
const REUSE: Control = {
  ...{ group: "Cache", name: "reuse_kv", label: "reuse the KV cache", help: "reuse" },
  ...{ kind: "bool", default: true, least: null, most: null, step: 1 },
};
const INFO = {
  ...{ model: "tiny", context: 100, slots: 8, experts: 24 },
  ...{ bank_nbytes: 8_000, token_experts: 6 },
};

const MODULES = { highlight, formulas, "formula-symbols": formulaSymbols };

/** The page of the current test. */
export const page = {} as {
  model: MockModel;
  host: HTMLElement;
  close: () => void;
  renderAgain: () => void;
};

export function message(id: number, text: string, more: Partial<Message> = {}): Message {
  const role = id % 2 ? "user" : "assistant";
  const ended = id % 2 ? "" : "stop";
  return { id, role, text, ended, note: "", numbers: {}, siblings: [id], ...more };
}

export function state(seq: number, messages: Message[], more: Partial<ChatState> = {}): ChatState {
  return {
    ...{ seq, conversation: 1, title: "", conversations: [{ id: 1, label: "One" }], messages },
    ...{ earlier: 0, running: false, elsewhere: 0, used: 42, ...more },
  };
}

/** Made as anywidget makes it: one instance per model, `render` once per view. */
export function open(
  first: ChatState,
  traits: Record<string, unknown> = {},
  host?: WidgetHost,
): void {
  page.model = new MockModel({
    ...{ state: first, notice: "", draft: "", status: "idle", watch: false, live: null },
    ...{ run_view: null, run_shown: { run: 0, note: "" }, view_id: "oj-chat-1", info: INFO },
    ...{ controls: [CONTROL, REUSE], temperature: 0.5, reuse_kv: true, system: "" },
    ...{ blocking: false, ...traits },
  });
  const { model } = page;
  model.modules = MODULES;
  const instance = widget();
  const dispose = instance.initialize({ model });
  const controller = new AbortController();
  const context = { model, el: page.host, signal: controller.signal, ...(host && { host }) };
  const cleanup = instance.render(context);
  page.renderAgain = () => instance.render(context);
  page.close = () => {
    cleanup();
    controller.abort();
    dispose();
  };
}

export function prepare(): void {
  document.body.style.cssText = "margin: 0; --jp-layout-color1: #ffffff";
  page.host = document.body.appendChild(document.createElement("div"));
}

export function clear(): void {
  page.close();
  page.host.remove();
}

export const $ = <T extends HTMLElement>(selector: string) => page.host.querySelector<T>(selector)!;
export const textOf = (selector: string) => $(selector).textContent ?? "";
export const box = () => $<HTMLTextAreaElement>(".oj-composer textarea");
export const receive = (content: object) => page.model.emit("msg:custom", content);
export const named = (name: string) =>
  [...page.host.querySelectorAll("button")].find(
    (each) => each.textContent === name || each.getAttribute("aria-label") === name,
  )!;
export const drawn = () => settled(page.host);
/** The messages sent, except requests for modules, and drafts, which follow typing after a pause. */
export const sent = () =>
  page.model.sent.filter((each) => !["draft", "module"].includes((each as { type: string }).type));
/** The requests for modules. */
export const requested = () =>
  page.model.sent.flatMap((each) => {
    const { type, name } = each as { type: string; name: string };
    return type === "module" ? [name] : [];
  });
/** Resolves when as many modules have arrived and are drawn. */
export const arrived = (selector: string) =>
  vi.waitFor(() => expect(page.host.querySelector(selector)).not.toBeNull());
export const last = () => sent().at(-1) as Record<string, unknown>;
