// What an answer has besides its text: what the model thought before it, and its tool calls.

import axe from "axe-core";
import { afterEach, beforeEach, expect, test } from "vitest";
import { userEvent } from "vitest/browser";
import type { Message, ToolCall } from "../../src/chat/store";
import {
  $,
  arrived,
  clear,
  drawn,
  last,
  message,
  named,
  open,
  page,
  prepare,
  receive,
  sent,
  state,
  textOf,
} from "./chatting";

beforeEach(prepare);
afterEach(clear);

const THOUGHT = { text: "First **this**, then `that`.", seconds: 12.3, tokens: 310 };
const thinking = () => $<HTMLDetailsElement>(".oj-thinking");
const answer = (more: Partial<Message>, text = "So it is.") => [
  message(1, "q"),
  message(2, text, more),
];
const call = (more: Partial<ToolCall> = {}): ToolCall => ({
  ...{ id: "call00001", name: "search", arguments: { query: "an <b>expert</b>", most: 3 } },
  ...{ state: "proposed" as const, result: "", ...more },
});
const violations = async () =>
  (await axe.run(page.host, { rules: { region: { enabled: false } } })).violations.map(
    ({ id, nodes }) => [id, ...nodes.map((each) => each.html)],
  );

test("thinking streams into an open block, which folds when the answer begins", async () => {
  open(state(5, answer({ ended: "running" }, ""), { running: true }));
  receive({ type: "state", state: page.model.get("state") });
  const piece = { type: "text", conversation: 1, message: 2 };
  receive({ ...piece, seq: 6, kind: "thinking", text: "Let me **see" });
  receive({ ...piece, seq: 7, kind: "thinking", text: "**." });
  await drawn();
  expect(thinking().open).toBe(true);
  expect(textOf(".oj-thinking summary")).toBe("Thinking…");
  expect(textOf(".oj-thinking strong")).toBe("see");
  expect($<HTMLElement>(".oj-assistant > .oj-body").dataset.empty ?? "").toBe("");
  receive({ ...piece, seq: 8, text: "It is" });
  await drawn();
  expect(thinking().open).toBe(false);
  expect(textOf(".oj-thinking summary")).toBe("Thought");
  expect(textOf(".oj-assistant > .oj-body").trim()).toBe("It is");
  const whole = answer({ thinking: THOUGHT });
  receive({ type: "state", state: state(9, whole) });
  await drawn();
  expect(thinking().open).toBe(false);
  expect(textOf(".oj-thinking summary")).toBe("Thought for 12.3\u202fs · 310\u202ftokens");
});

test("whoever opens the thinking, or folds it, decides; the keyboard does as well", async () => {
  open(state(1, answer({ thinking: THOUGHT })));
  await drawn();
  expect(thinking().querySelector(".oj-thoughts")!.childElementCount).toBe(0); // drawn when it is opened
  $(".oj-thinking summary").focus();
  await userEvent.keyboard("{Enter}");
  await drawn();
  expect(textOf(".oj-thinking code")).toBe("that");
  receive({ type: "state", state: state(2, answer({ thinking: THOUGHT }, "So it is. More.")) });
  await drawn();
  expect(thinking().open).toBe(true);
  expect(await violations()).toEqual([]);
});

test("what was folded while it was written stays folded", async () => {
  const now = { ended: "running" as const, thinking: { text: "Hm" } };
  open(state(1, answer(now, ""), { running: true }));
  await drawn();
  $(".oj-thinking summary").click();
  receive({ type: "text", seq: 2, conversation: 1, message: 2, kind: "thinking", text: "m" });
  await drawn();
  expect(thinking().open).toBe(false);
});

test("the focus within a block that folds goes to its summary", async () => {
  const link = { text: "See [this](https://example.org)." };
  open(state(1, answer({ ended: "running", thinking: link }, ""), { running: true }));
  await drawn();
  $(".oj-thinking a").focus();
  receive({ type: "text", seq: 2, conversation: 1, message: 2, text: "So" });
  await drawn();
  expect(document.activeElement).toBe($(".oj-thinking summary"));
});

test("thinking without an answer stays in sight", async () => {
  open(state(1, answer({ ended: "interrupted", thinking: THOUGHT }, "")));
  await drawn();
  expect(thinking().open).toBe(true);
  expect($<HTMLElement>(".oj-assistant > .oj-body[data-empty^=No]")).not.toBeNull();
});

test("an answer without thinking or calls has neither", async () => {
  open(state(1, answer({ thinking: {}, tool_calls: [] })));
  await drawn();
  expect([thinking().hidden, $(".oj-calls").hidden]).toEqual([true, true]);
});

test("a proposed call shows its arguments, and runs or is refused by a click", async () => {
  open(state(1, answer({ tool_calls: [call(), call({ id: "call00002", name: "now" })] }, "")));
  await drawn();
  expect(textOf(".oj-call pre")).toBe('{\n  "query": "an <b>expert</b>",\n  "most": 3\n}');
  expect($(".oj-call").getAttribute("aria-label")).toBe("Tool call search");
  expect(textOf(".oj-call-head .oj-facts")).toBe("waits for you");
  expect($<HTMLElement>(".oj-assistant > .oj-body").dataset.empty ?? "").not.toContain("No text");
  expect(page.host.querySelector(".oj-call b")).toBeNull();
  expect(await violations()).toEqual([]);
  named("Run").focus();
  await userEvent.keyboard("{Enter}");
  expect(last()).toMatchObject({ type: "call", message: 2, call: "call00001", allow: true });
  expect(document.activeElement).toBe($(".oj-call"));
  [...page.host.querySelectorAll<HTMLElement>(".oj-call button")]
    .filter((each) => each.textContent === "Refuse")[1]
    .click();
  expect(last()).toMatchObject({ type: "call", message: 2, call: "call00002", allow: false });
});

test("what becomes of a call is shown: running, done, failed, refused", async () => {
  const calls = [
    call({ state: "running" }),
    call({ id: "2", state: "done", result: '["a", "b"]' }),
    call({ id: "3", state: "failed", result: "ValueError: <i>no</i>" }),
    call({ id: "4", state: "refused", result: "The user did not allow this call." }),
    call({ id: "5" }),
  ];
  open(state(1, answer({ tool_calls: calls }, "Text before."), { running: true }));
  await drawn();
  const cards = [...page.host.querySelectorAll(".oj-call")];
  const states = cards.map((each) => each.querySelector(".oj-facts")!.textContent);
  expect(states).toEqual(["running…", "done", "failed", "refused", "waits for you"]);
  const results = cards.map((each) => each.querySelector("details")!);
  expect(results.map((each) => [each.hidden, each.open])).toEqual([
    ...[
      [true, false],
      [false, false],
      [false, true],
      [false, false],
    ], // an error is in sight
    [true, false],
  ]);
  expect(results[1].querySelector("summary")!.textContent).toBe("Result · 10 characters");
  expect(results[2].querySelector("pre")!.textContent).toBe("ValueError: <i>no</i>");
  const buttons = cards.flatMap((each) => [...each.querySelectorAll("button")]);
  const usable = buttons.filter((each) => each.offsetParent).map((each) => each.textContent);
  expect(usable).toEqual(["Run", "Refuse"]);
  expect(named("Run").disabled).toBe(false); // another one may be decided on while one runs
  expect(await violations()).toEqual([]);
});

test("during another answer no call can be decided on, nor without a kernel", async () => {
  const calls = answer({ tool_calls: [call()] });
  open(state(1, calls, { running: true }));
  await drawn();
  expect([named("Run").disabled, named("Refuse").disabled]).toEqual([true, true]);
  receive({ type: "state", state: state(2, calls) });
  await drawn();
  expect(named("Run").disabled).toBe(false);
  page.model.set("status", "closed");
  await drawn();
  expect(named("Run").disabled).toBe(true);
});

test("the model can read the error of a call that could not be read, and go on", async () => {
  const broken = call({ name: "", arguments: {}, state: "failed", result: "not JSON" });
  open(state(1, answer({ tool_calls: [broken] })));
  await drawn();
  expect(textOf(".oj-call-name")).toBe("unreadable call");
  expect($(".oj-call pre").hidden).toBe(true);
  const waiting = answer({ tool_calls: [broken, call({ id: "2" })] });
  receive({ type: "state", state: state(2, waiting) });
  await drawn();
  expect(named("Answer anyway").hidden).toBe(true); // another call is to be decided on first
  receive({
    type: "state",
    state: state(3, answer({ tool_calls: [broken, call({ id: "2", state: "done" })] })),
  });
  await drawn();
  named("Answer anyway").click();
  expect(last()).toMatchObject({ type: "call", message: 2, allow: true });
  const more = [...answer({ tool_calls: [broken] }), message(4, "On.")];
  receive({ type: "state", state: state(4, more) });
  await drawn();
  expect(named("Answer anyway").hidden).toBe(true);
});

test("a call with odd contents is text, and long results keep their size", async () => {
  const odd = call({
    name: "<img src=x>",
    arguments: { a: "x".repeat(9000), b: [null, { c: "&" }] },
  });
  const result = "line\n".repeat(2000);
  open(state(1, answer({ tool_calls: [odd, call({ id: "2", state: "failed", result })] })));
  await drawn();
  expect(page.host.querySelector("img")).toBeNull();
  expect(textOf(".oj-call-name")).toBe("<img src=x>");
  for (const each of page.host.querySelectorAll(".oj-call pre")) {
    expect(each.clientHeight).toBeLessThan(320);
    expect(each.scrollWidth - each.clientWidth).toBeLessThanOrEqual(0);
  }
  expect($(".oj-messages").scrollWidth - $(".oj-messages").clientWidth).toBeLessThanOrEqual(0);
});

test("thinking has formulas and code as an answer has, and is never HTML", async () => {
  const text = "<script>window.hit=1</script>\n\n$x^2$\n\n```python\nif x: pass\n```";
  open(state(1, answer({ ended: "running", thinking: { text } }, ""), { running: true }));
  await drawn();
  await arrived(".oj-thinking math");
  await arrived(".oj-thinking .oj-code-kwd");
  expect(page.host.querySelector("script")).toBeNull();
  expect(textOf(".oj-thoughts")).toContain("<script>");
  expect(sent().length).toBe(1); // only that for the state
});
