// A page that shows the view with a made-up run, for looking at it and for measuring it.
//
// Query: theme=light|dark, size=demo|qwen|wide, tokens=<how many>, live=1 to play it in real time,
// end=stop|length|interrupted|error to finish it.

import widget from "../src/live";
import { encode, MockModel, type Shape, Synthetic } from "../tests/synthetic";

const SHAPES: Record<string, Shape> = {
  demo: { layers: 6, experts: 16, k: 2, slots: 40, prompt: 14, expertBytes: 200_000 },
  qwen: { layers: 48, experts: 128, k: 8, slots: 2600, prompt: 23, expertBytes: 2_654_208 },
  wide: { layers: 60, experts: 512, k: 10, slots: 9000, prompt: 40, expertBytes: 3_538_944 },
};

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
    prompt: "Write three sentences about a river that has seen many winters.",
  },
});
const instance = widget();
instance.initialize({ model });
const host = document.getElementById("view")!;
instance.render({ model, el: host });

const run = new Synthetic(shape);
const push = (n: number, decode: boolean, final = false) =>
  model.frame(encode(run.next(n, decode, final)));

const tokens = Number(query.get("tokens") ?? 120);
if (query.has("live")) {
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
  }, 50);
} else if (tokens >= 0) {
  model.set("status", "running");
  push(shape.prompt, false);
  for (let i = 0; i < tokens; i += 1) push(1, true, i === tokens - 1 && !!end);
  if (end) model.set("status", end);
}

Object.assign(window, { model, push, harnessReady: true });
