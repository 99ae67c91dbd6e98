// A page that shows the run view with a synthetic run, to look at it and to measure it.
//
// Query: theme=light|dark, size=demo|qwen|wide, tokens=<how many>, live=1 to play it in real time,
// end=stop|length|interrupted|error to finish it. With play=1 the page waits for the functions that
// benchmarks/drawing.py and benchmarks/scrubbing.py call.

import widget from "../src/live";
import { EXACT, type Frame } from "../src/live/frames";
import { encode, MockModel, PARTS, type Shape, Synthetic } from "../tests/synthetic";

const SHAPES: Record<string, Shape> = {
  demo: { layers: 6, experts: 16, k: 2, slots: 40, prompt: 14, expertBytes: 200_000 },
  qwen: { layers: 48, experts: 128, k: 8, slots: 2600, prompt: 23, expertBytes: 2_654_208 },
  wide: { layers: 60, experts: 512, k: 10, slots: 9000, prompt: 40, expertBytes: 3_538_944 },
};

/** Milliseconds between two messages, as Python sends them. */
const EVERY_MS = 50;

const query = new URLSearchParams(location.search);
document.body.className = query.get("theme") ?? "light";
const shape = SHAPES[query.get("size") ?? "qwen"];
const end = query.get("end");

const model = new MockModel({
  status: "waiting",
  info: {
    model: query.get("name") ?? "Qwen3-30B-A3B-4bit",
    reader: "direct",
    reader_note: "O_DIRECT, 4 threads",
    slots: shape.slots,
    expert_nbytes: shape.expertBytes,
    cache: "8.0 GB",
    changed_output: query.get("changed") ?? "",
    parts: PARTS,
    prompt: "Write three sentences about a river that has seen many winters.",
  },
});
const instance = widget();
instance.initialize({ model });
const host = document.getElementById("view")!;
const render = () => instance.render({ model, el: host });
if (!query.has("play")) render();

const run = new Synthetic(shape);
const push = (n: number, decode: boolean, final = false) =>
  model.frame(encode(run.next(n, decode, final)));

const tokens = Number(query.get("tokens") ?? 120);
if (query.has("play")) {
  // Nothing until `start`.
} else if (query.has("live")) {
  let made = -1;
  const timer = setInterval(() => {
    if (made < 0) {
      model.set("status", "running");
      push(shape.prompt, false);
    } else push(1, true);
    made += 1;
    if (made >= tokens) {
      clearInterval(timer);
      model.set("status", end ?? "stop");
    }
  }, EVERY_MS);
} else if (tokens >= 0) {
  model.set("status", "running");
  push(shape.prompt, false);
  for (let i = 0; i < tokens; i += 1) push(1, true, i === tokens - 1 && !!end);
  if (end) model.set("status", end);
}

/** Send `n` tokens before the run is displayed. */
function fill(n: number): void {
  model.set("status", "running");
  push(shape.prompt, false);
  for (let i = 0; i < n; i += 1) push(1, true);
}

/** Make a run of `n` tokens that is over, and answer questions for its eviction order as Python does. */
function finish(n: number): void {
  run.ordered = false;
  run.paragraph = 82;
  fill(n - 1);
  run.ordered = true;
  push(1, true, true);
  model.set("status", "stop");
  const resident = run.resident();
  model.send = (content) => {
    const step = (content as { about?: { order?: number } }).about?.order;
    if (step === undefined) return;
    const orders = [{ kind: EXACT, length: resident.length, pinned: 0 }];
    const answer = { type: "orders", from: step, orders };
    setTimeout(() => model.emit("msg:custom", answer, [new DataView(resident.buffer)]), 20);
  };
}

/** Display the run; returns the milliseconds until the frame after its first drawing. */
async function open(): Promise<number> {
  const began = performance.now();
  render();
  const drawn = () => (document.querySelector(".oj-where")?.textContent ?? "") !== "";
  while (!drawn()) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - began;
}

const messages: Uint8Array[] = [];

/** Prepare `seconds` of a run at `rate` tokens per second, for `start` to play. */
function prepare(seconds: number, rate: number): void {
  messages.length = 0;
  let made = 0;
  for (let at = EVERY_MS; at <= 1000 * seconds; at += EVERY_MS) {
    const due = Math.floor((at * rate) / 1000 + 1e-9) - made;
    made += due;
    const frame: Frame = run.next(due, true);
    messages.push(encode(frame));
  }
}

/** Play the prepared run in real time; resolves to the number of messages. */
function start(): Promise<number> {
  const began = performance.now();
  return new Promise((resolve) => {
    let sent = 0;
    const timer = setInterval(() => {
      // A late timer catches up, so that every machine measures the same run.
      while (sent < messages.length && performance.now() - began >= (sent + 1) * EVERY_MS) {
        model.frame(messages[sent]);
        sent += 1;
      }
      if (sent < messages.length) return;
      clearInterval(timer);
      resolve(sent);
    }, 5);
  });
}

const realFrame = window.requestAnimationFrame.bind(window);

/**
 * Play the prepared run by a clock that stops while a frame is drawn: 60 frames per second of that
 * clock, each presented before the next, however busy the machine is. Resolves to a list with 1 for
 * each frame that drew something and 0 for the others.
 */
async function step(): Promise<number[]> {
  const waiting: FrameRequestCallback[] = [];
  const drawn: number[] = [];
  let [now, sent] = [performance.now(), 0];
  performance.now = () => now;
  window.requestAnimationFrame = (callback) => waiting.push(callback);
  const began = now;
  while (sent < messages.length) {
    now += 1000 / 60;
    while (sent < messages.length && now - began >= (sent + 1) * EVERY_MS) {
      model.frame(messages[sent]);
      sent += 1;
    }
    await new Promise<void>((resolve) =>
      realFrame(() => {
        const due = waiting.splice(0);
        drawn.push(due.length ? 1 : 0);
        for (const callback of due) callback(now);
        resolve();
      }),
    );
  }
  return drawn;
}

Object.assign(window, {
  model,
  shape,
  push,
  fill,
  finish,
  open,
  prepare,
  start,
  step,
  harnessReady: true,
});
