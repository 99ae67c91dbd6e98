// What the view needs of the page that hosts it: anywidget's model, and nothing more.

import type { Part } from "../live/time-parts";

export interface Model {
  get(name: string): unknown;
  on(event: string, callback: (...args: never[]) => void): void;
  off(event: string, callback?: (...args: never[]) => void): void;
  send(content: unknown, callbacks?: unknown, buffers?: ArrayBuffer[]): void;
  /** The page's own, of whatever kind; in JupyterLab and Notebook it knows the notebook. */
  widget_manager?: unknown;
}

/** What `LiveView.info` may hold; every entry can be missing. */
export interface Info {
  model?: string;
  reader?: string;
  reader_note?: string;
  slots?: number;
  layers?: number;
  experts?: number;
  expert_nbytes?: number;
  changed_output?: string;
  cache?: string;
  prompt?: string;
  /** Of a token's time: what they are called, and where a frame has them. */
  parts?: readonly Part[];
}

export type Status =
  | "waiting"
  | "running"
  | "stop"
  | "length"
  | "interrupted"
  | "error"
  | (string & {});

export const isOver = (status: Status): boolean => status !== "waiting" && status !== "running";
