// The chat: messages, sending, stopping and conversations.

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { userEvent } from "vitest/browser";
import {
  $,
  box,
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

test("an empty chat offers starter prompts, which send themselves", async () => {
  const starters = ["What is <b>an expert</b>?", "Why?"];
  open(state(1, []), { starters });
  await drawn();
  const offered = [...page.host.querySelectorAll<HTMLButtonElement>(".oj-starters button")];
  expect(offered.map((each) => each.textContent)).toEqual(starters);
  expect(textOf(".oj-start")).toContain("Ask tiny a question, or begin with:");
  offered[1].click();
  expect(last()).toMatchObject({ type: "send", text: "Why?" });
  expect(box().value).toBe("Why?");
  receive({ type: "state", state: state(2, [message(1, "Why?")], { running: true }) });
  await drawn();
  expect($(".oj-start").hidden).toBe(true);
});

test("a chat without starters, or without a kernel, offers none", async () => {
  open(state(1, []));
  await drawn();
  expect(textOf(".oj-start")).toBe("Ask tiny a question.");
  page.model.set("starters", ["Why?"]);
  page.model.set("status", "closed");
  await drawn();
  expect($<HTMLButtonElement>(".oj-starters button").disabled).toBe(true);
});

test("the run view is docked beside a wide chat and below a narrow one, without a scroller", async () => {
  const shown = { run_shown: { run: 3, note: "run 3 is no longer kept" } };
  const numbers = { run: 3 };
  open(state(1, [message(1, "q"), message(2, "a", { numbers })]), shown);
  for (const [width, beside] of [
    [1300, true],
    [700, false],
  ] as const) {
    page.host.style.width = `${width}px`;
    await drawn();
    const [talk, dock] = [".oj-talk", ".oj-dock"].map((each) => $(each).getBoundingClientRect());
    expect(dock.left >= talk.right - 1).toBe(beside);
    expect(dock.top >= talk.bottom - 1).toBe(!beside);
    for (const each of [$(".oj-dock"), $(".oj-run")])
      expect(getComputedStyle(each).overflowY).toBe("visible");
  }
  named("Close").click();
  expect(last()).toEqual({ type: "run", run: 0 });
});

test("the current path is shown, questions as text and answers as Markdown", async () => {
  open(state(1, [message(1, "**not** bold"), message(2, "**bold** and `code`")]));
  await drawn();
  expect(textOf(".oj-user .oj-body")).toBe("**not** bold");
  expect(textOf(".oj-assistant strong")).toBe("bold");
  expect(textOf(".oj-context")).toContain("42 of 100");
  expect($(".oj-messages").getAttribute("role")).toBe("log");
  expect($(".oj-chat").dataset.lmSuppressShortcuts).toBe("true");
});

test("what the model wrote is never HTML, fetches nothing and runs nothing", async () => {
  const bad = [
    '<img src=x onerror="window.hit=1"> <script>window.hit=1</script> <b>b</b>',
    "![picture](https://example.org/a.png) [go](javascript:window.hit=1) [ok](https://example.org)",
    "<div onclick=x>\n\nblock\n\n</div>",
    '```html"><img src=x>\n<i>\n```',
  ];
  open(state(1, [message(1, "q"), message(2, bad.join("\n\n"))]));
  await drawn();
  expect(page.host.querySelector("img, script, b, i, .oj-body div[onclick]")).toBeNull();
  expect(textOf(".oj-assistant .oj-body")).toContain('<img src=x onerror="window.hit=1">');
  const links = [...page.host.querySelectorAll<HTMLAnchorElement>(".oj-body a")];
  expect(links.map((link) => link.href)).toEqual([
    "https://example.org/a.png",
    "https://example.org/",
  ]);
  expect(links.every((link) => link.rel === "noopener noreferrer")).toBe(true);
  expect("hit" in window).toBe(false);
});

test("tables, lists and code keep what they are", async () => {
  const text = "| a | b |\n|---|--:|\n| 1 | 2 |\n\n3. three\n\n- [x] done\n\n```python\nx = 1\n```";
  open(state(1, [message(1, "q"), message(2, text)]));
  await drawn();
  expect($(".oj-body td:last-child").getAttribute("align")).toBe("right");
  expect($(".oj-body ol").getAttribute("start")).toBe("3");
  expect(textOf(".oj-body ul")).toContain("☑ done");
  expect(textOf(".oj-code-head span")).toBe("python");
  expect(textOf(".oj-code code")).toBe("x = 1\n");
});

test("text grows by pieces, and a gap is repaired by one request", async () => {
  open(state(5, [message(1, "q"), message(2, "", { ended: "running" })], { running: true }));
  expect(sent()).toEqual([{ type: "resync" }]); // opened in the middle of an answer
  receive({ type: "state", state: page.model.get("state") });
  receive({ type: "text", seq: 6, conversation: 1, message: 2, text: "Hello " });
  receive({ type: "text", seq: 7, conversation: 1, message: 2, text: "you" });
  receive({ type: "text", seq: 7, conversation: 1, message: 2, text: "you" });
  await drawn();
  expect(textOf(".oj-assistant .oj-body").trim()).toBe("Hello you");
  expect($(".oj-assistant").getAttribute("aria-busy")).toBe("true");
  receive({ type: "text", seq: 9, conversation: 1, message: 2, text: "lost" });
  receive({ type: "text", seq: 10, conversation: 1, message: 2, text: "lost" });
  expect(sent()).toHaveLength(2);
  receive({ type: "state", state: state(11, [message(1, "q"), message(2, "whole")]) });
  await drawn();
  expect(textOf(".oj-assistant .oj-body").trim()).toBe("whole");
});

test("while the prompt is read its progress is shown, until there is text", async () => {
  const writing = message(2, "", { ended: "running" });
  open(state(5, [message(1, "q"), writing], { running: true }));
  const bar = () => $<HTMLProgressElement>(".oj-assistant progress");
  const wait = () => $(".oj-assistant .oj-body").dataset.empty;
  await drawn();
  expect([wait(), bar().hidden]).toEqual(["Reading…", true]);
  receive({ type: "reading", conversation: 1, reading: { message: 2, read: 512, of: 2048 } });
  await drawn();
  expect(wait()).toMatch(/^Reading the prompt: 512 of 2.048.tokens$/);
  expect([bar().hidden, bar().value, bar().max]).toEqual([false, 512, 2048]);
  receive({ type: "reading", conversation: 3, reading: null });
  await drawn();
  expect(bar().hidden).toBe(false);
  receive({ type: "text", seq: 6, conversation: 1, message: 2, text: "Hello" });
  await drawn();
  expect(bar().hidden).toBe(true);
});

test("an older state changes nothing", async () => {
  open(state(9, [message(1, "new")]));
  page.model.set("state", state(8, [message(1, "old")]));
  await drawn();
  expect(textOf(".oj-user .oj-body")).toBe("new");
});

test("Enter sends, Shift+Enter begins a line, and an accepted message leaves the box", async () => {
  open(state(1, []));
  await drawn();
  await userEvent.click(box());
  await userEvent.keyboard("one{Shift>}{Enter}{/Shift}two{Enter}");
  expect(last()).toMatchObject({ type: "send", text: "one\ntwo" });
  expect(box().value).toBe("one\ntwo");
  receive({ type: "accepted", request: last().request });
  await drawn();
  expect(box().value).toBe("");
});

test("a refused message stays where it was typed, with the reason", async () => {
  open(state(1, []));
  await drawn();
  await userEvent.click(box());
  await userEvent.keyboard("wait{Enter}");
  page.model.set("notice", "another run is under way");
  receive({ type: "refused", request: last().request });
  await drawn();
  expect(box().value).toBe("wait");
  expect(textOf(".oj-notice")).toContain("another run is under way");
  expect($(".oj-notice").getAttribute("role")).toBe("alert");
  named("Dismiss").click();
  expect(last()).toEqual({ type: "dismiss" });
  await userEvent.click(box());
  await userEvent.keyboard("{Enter}");
  expect(last()).toMatchObject({ type: "send", text: "wait" });
});

test("an Enter that chooses from an input method sends nothing", async () => {
  open(state(1, []), { draft: "にほん" });
  await drawn();
  box().dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", isComposing: true }));
  expect(sent()).toEqual([]);
});

test("a draft survives a reload, and is sent to Python", async () => {
  open(state(1, []), { draft: "half a thou" });
  await drawn();
  expect(box().value).toBe("half a thou");
  await userEvent.click(box());
  await userEvent.keyboard("ght");
  const draft = { type: "draft", text: "half a thought" };
  await vi.waitFor(() => expect(page.model.sent.at(-1)).toEqual(draft));
});

test("Escape and the button stop an answer; the focus goes back to the box", async () => {
  const writing = [message(1, "q"), message(2, "a", { ended: "running" })];
  open(state(1, writing, { running: true }));
  await drawn();
  await userEvent.click(box());
  await userEvent.keyboard("next{Enter}"); // not while an answer is written
  await userEvent.keyboard("{Escape}");
  expect(last()).toEqual({ type: "stop" });
  await userEvent.click(named("Stop"));
  expect(sent().slice(1)).toEqual([{ type: "stop" }, { type: "stop" }]);
  page.model.set("state", state(2, [message(1, "q"), message(2, "a", { ended: "interrupted" })]));
  await drawn();
  expect(document.activeElement).toBe(box());
  expect(box().value).toBe("next");
  expect(textOf(".oj-assistant .oj-facts")).toContain("stopped");
});

test("regenerate, versions and edit name the right message", async () => {
  const two = [message(1, "q", { siblings: [1, 4, 9] }), message(2, "a")];
  open(state(1, two));
  await drawn();
  named("Try again").click();
  expect(last()).toMatchObject({ type: "regenerate", message: 2 });
  expect(textOf(".oj-place")).toBe("1/3");
  expect((named("Earlier version") as HTMLButtonElement).disabled).toBe(true);
  named("Later version").click();
  expect(last()).toEqual({ type: "choose", message: 4 });
  named("Edit").click();
  await userEvent.keyboard("!{Enter}");
  expect(last()).toMatchObject({ type: "edit", message: 1, text: "q!" });
  receive({ type: "refused", request: last().request });
  await drawn();
  expect($<HTMLTextAreaElement>(".oj-editor textarea").value).toBe("q!");
  await userEvent.keyboard("{Escape}");
  expect($(".oj-editor")).toBeNull();
  expect(document.activeElement).toBe(named("Edit"));
});

test("settings are controls with their limits, sent when changed", async () => {
  open(state(1, []));
  await drawn();
  expect($(".oj-settings").hidden).toBe(true);
  named("Settings").click();
  await drawn();
  const input = $<HTMLInputElement>(".oj-settings input[type=number]");
  expect([input.value, input.min, input.closest("label")!.title]).toEqual(["0.5", "0", "how hot"]);
  await userEvent.fill(input, "0.9");
  input.blur();
  expect(last()).toEqual({ type: "set", name: "temperature", value: 0.9 });
  page.model.set("temperature", 0.2); // from Python
  await drawn();
  expect(input.value).toBe("0.2");
  await userEvent.fill($(".oj-settings textarea"), "Be brief.");
  $(".oj-settings textarea").blur();
  expect(last()).toEqual({ type: "set", name: "system", value: "Be brief." });
});

test("a setting with choices is a list, and one of texts has a line for each", async () => {
  const other = { help: "", default: "auto", least: null, most: null, step: 1 };
  const controls = [
    { ...other, group: "Thinking", name: "thinking", label: "thinking", kind: "choice" },
    { ...other, group: "Thinking", name: "template", label: "template variables", kind: "texts" },
  ];
  Object.assign(controls[0], { choices: ["auto", "on", "off"] });
  open(state(1, []), { controls, thinking: "on", template: ["a=1", "b=x"] });
  named("Settings").click();
  await drawn();
  const choice = $<HTMLSelectElement>(".oj-settings select");
  const lines = $<HTMLTextAreaElement>(".oj-settings fieldset textarea");
  expect([choice.value, lines.value]).toEqual(["on", "a=1\nb=x"]);
  choice.value = "off";
  choice.dispatchEvent(new Event("change"));
  expect(last()).toEqual({ type: "set", name: "thinking", value: "off" });
  lines.value = "a=2\n\nc=[1]\n";
  lines.dispatchEvent(new Event("change"));
  expect(last()).toEqual({ type: "set", name: "template", value: ["a=2", "c=[1]"] });
});

test("conversations are switched, started, exported, and deleted at the second press", async () => {
  const conversations = [
    { id: 1, label: "One" },
    { id: 2, label: "<b>Two</b>" },
  ];
  open(state(1, [message(1, "q")], { conversations }));
  await drawn();
  const pick = $<HTMLSelectElement>("select");
  expect([...pick.options].map((each) => each.text)).toEqual(["One", "<b>Two</b>"]);
  await userEvent.selectOptions(pick, "2");
  expect(last()).toEqual({ type: "switch", conversation: 2 });
  named("New").click();
  expect(last()).toEqual({ type: "new" });
  named("Export").click();
  expect(last()).toEqual({ type: "export" });
  named("Delete").click();
  expect(last()).toEqual({ type: "export" });
  named("Really delete?").click();
  expect(last()).toEqual({ type: "delete", conversation: 1 });
  page.model.set("state", state(2, [message(1, "other")], { conversation: 2, conversations }));
  await drawn();
  expect(textOf(".oj-user .oj-body")).toBe("other");
});

test("a view made twice shows the same, and closing leaves nothing behind", async () => {
  open(state(1, [message(1, "q"), message(2, "a")]));
  page.renderAgain();
  await drawn();
  const bodies = [...page.host.querySelectorAll(".oj-assistant .oj-body")];
  expect(bodies.map((each) => each.textContent?.trim())).toEqual(["a", "a"]);
  page.close();
  expect(page.host.querySelector(".oj-chat")).toBeNull();
  expect(page.model.listeners).toBe(0);
});

test("without a kernel nothing can be sent, and the chat says so", async () => {
  open(state(1, [message(1, "q")]));
  page.model.emit("comm_live_update");
  await drawn();
  expect(box().disabled).toBe(true);
  expect(textOf(".oj-composer .oj-hint")).toContain("Kernel disconnected");
  expect(textOf(".oj-composer .oj-hint")).toContain(
    "Run the cell that loads tiny, then this cell again to continue.",
  );
  expect(page.model.sent).toEqual([{ type: "resync" }]);
});

test("when the kernel answers again, messages can be sent", async () => {
  open(state(1, [message(1, "q")]));
  page.model.emit("comm_live_update");
  receive({ type: "state", seq: 2, state: state(2, [message(1, "q")]) });
  await drawn();
  expect(box().disabled).toBe(false);
});

test("inside a disconnected ipywidgets box nothing can be sent", async () => {
  page.host.className = "jupyter-widgets-disconnected";
  open(state(1, [message(1, "q")]));
  await drawn();
  expect(box().disabled).toBe(true);
});
