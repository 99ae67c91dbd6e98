// The chat's settings, code blocks, runs and focus.

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { userEvent } from "vitest/browser";
import {
  $,
  arrived,
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

const slider = () => $<HTMLInputElement>(".oj-cache input[type=range]");
const experts = () => $<HTMLInputElement>(".oj-cache input[type=number]");

const answers = (label: string) => $(`.oj-assistant [aria-label="${label}"]`);

test("the cache's size is a control that says what fits, and is sent after a pause", async () => {
  open(state(1, []));
  await drawn();
  named("Settings").click();
  await drawn();
  expect([slider().min, slider().max, slider().value, experts().value]).toEqual([
    ...["1", "24", "8", "8"],
  ]);
  expect(textOf(".oj-cache .oj-facts")).toMatch(/^8 of 24 experts fit in RAM \(8.00.kB\)$/);
  slider().focus();
  await userEvent.keyboard("{ArrowRight}{ArrowRight}");
  await drawn();
  expect(experts().value).toBe("10");
  expect(textOf(".oj-cache .oj-facts")).toMatch(/^10 of 24 experts fit in RAM \(10.0.kB\)$/);
  await vi.waitFor(() => expect(last()).toMatchObject({ type: "resize", cache_experts: 10 }));
  expect(sent()).toHaveLength(1);
  page.model.set("info", { ...(page.model.get("info") as object), slots: 10, bank_nbytes: 10_000 });
  receive({ type: "accepted", request: last().request });
  await drawn();
  expect(slider().value).toBe("10");
});

test("a setting that is no text, as a stranger's notebook may have it, is shown as none", async () => {
  open(state(1, []));
  named("Settings").click();
  await drawn();
  const system = $<HTMLTextAreaElement>(".oj-settings textarea");
  for (const value of [{ toString: "x" }, [{ toString: 1 }, "a=1"], null]) {
    page.model.set("system", value);
    await drawn();
    expect(system.value).toBe(Array.isArray(value) ? "\na=1" : "");
  }
});

test("a refused size is reset, and a small one is warned about", async () => {
  open(state(1, []));
  named("Settings").click();
  await drawn();
  await userEvent.fill(experts(), "3");
  await drawn();
  expect(textOf(".oj-cache .oj-facts")).toContain("one token needs 6, so hardly any are reused");
  await vi.waitFor(() => expect(last()).toMatchObject({ type: "resize", cache_experts: 3 }));
  receive({ type: "refused", request: last().request });
  await vi.waitFor(() => expect(slider().value).toBe("8"));
  expect(experts().value).toBe("8");
});

test("during an answer the cache's size is fixed, and the control says when it is not", async () => {
  open(state(1, [message(1, "q"), message(2, "a", { ended: "running" })], { running: true }));
  named("Settings").click();
  await drawn();
  expect([slider().disabled, experts().disabled]).toEqual([true, true]);
  expect(textOf(".oj-cache .oj-facts")).toContain(
    "you can change this when the answer is complete",
  );
});

test("a setting that is being typed stays while the chat is redrawn, also in a shadow root", async () => {
  const outer = page.host;
  page.host = outer.attachShadow({ mode: "open" }).appendChild(document.createElement("div"));
  open(state(1, []));
  named("Settings").click();
  await drawn();
  const input = $<HTMLInputElement>(".oj-settings fieldset input[type=number]");
  expect(input.value).toBe("0.5");
  input.focus();
  input.value = "0.75";
  page.model.set("notice", "redrawn");
  await drawn();
  expect(input.value).toBe("0.75");
  outer.remove();
});

test("Escape closes the settings and gives the focus back to their button", async () => {
  open(state(1, []));
  named("Settings").click();
  await drawn();
  $<HTMLTextAreaElement>(".oj-settings textarea").focus();
  await userEvent.keyboard("{Escape}");
  expect($(".oj-settings").hidden).toBe(true);
  expect(document.activeElement).toBe(named("Settings"));
});

test("code is coloured by its language, letter for letter, and never HTML", async () => {
  const code = 'def f(x):\n    return "<b>" + x  # <img src=x onerror=1>\n';
  const other = "```brainf\n+[->+<]\n```";
  open(state(1, [message(1, "q"), message(2, `\`\`\`python\n${code}\`\`\`\n\n${other}`)]));
  await drawn();
  await arrived(".oj-code-kwd");
  const [first, second] = page.host.querySelectorAll(".oj-code code");
  expect(first.textContent).toBe(code);
  const kinds = (kind: string) =>
    [...first.querySelectorAll(`.oj-code-${kind}`)].map((each) => each.textContent);
  expect(kinds("kwd")).toEqual(["def", "return"]);
  expect(kinds("str")).toEqual(['"<b>"']);
  expect(kinds("cmnt")).toEqual(["# <img src=x onerror=1>"]);
  expect(first.querySelector("b, img")).toBeNull();
  expect(second.innerHTML).toBe("+[-&gt;+&lt;]\n");
});

test("the copy buttons copy the message as it was written, and the code alone", async () => {
  const copied: string[] = [];
  const write = vi.spyOn(navigator.clipboard, "writeText");
  write.mockImplementation(async (text) => void copied.push(text));
  open(state(1, [message(1, "q"), message(2, "**so**:\n\n```py\nx = 1\n```")]));
  await drawn();
  $(".oj-assistant .oj-actions button").click();
  named("Copy this code").click();
  expect(copied).toEqual(["**so**:\n\n```py\nx = 1\n```", "x = 1\n"]);
  await vi.waitFor(() => expect(named("Copy this code").textContent).toBe("Copied"));
  write.mockRestore();
});

test("a context that is nearly full, or too long, is warned about", async () => {
  open(state(1, [message(1, "q")], { used: 90 }));
  await drawn();
  expect(textOf(".oj-context")).toBe("tiny · 90 of 100 tokens of context");
  page.model.set("state", state(2, [message(1, "q")], { used: 93 }));
  await drawn();
  expect(textOf(".oj-context")).toContain("⚠ 93 % full: start another conversation soon");
  page.model.set("state", state(3, [message(1, "q")], { used: 130 }));
  await drawn();
  expect(textOf(".oj-context")).toContain("more than the model can read");
});

const numbers = {
  ...{ run: 3, generated: 24, prompt: 55, reused: 38, tokens_per_second: 12.34 },
  ...{ decode_hit_rate: 0.912, bytes_read: 1_500_000 },
};

test("an answer's run is docked, as the widget that Python names", async () => {
  const requested: string[] = [];
  const getWidget = async (ref: string) => {
    requested.push(ref);
    return {
      render: async ({ el }: { el: HTMLElement }) => {
        el.textContent = "the run";
      },
    };
  };
  open(state(1, [message(1, "q"), message(2, "a", { numbers })]), {}, { getWidget });
  await drawn();
  expect(textOf(".oj-assistant .oj-facts")).toMatch(
    /24.tokens · 12.3 tokens\/s · hit rate in decode 91.2.% · 1.50?.MB read · prompt of 55.tokens, 38 of them/,
  );
  const run = named("Run 3");
  expect([run.title.includes("chat.run(3)"), run.getAttribute("aria-expanded")]).toEqual([
    ...[true, "false"],
  ]);
  run.click();
  expect(last()).toEqual({ type: "run", run: 3 });
  page.model.set("run_view", "IPY_MODEL_abc");
  page.model.set("run_shown", { run: 3, note: "" });
  await vi.waitFor(() => expect(textOf(".oj-dock .oj-run")).toContain("the run"));
  expect(requested).toEqual(["anywidget:abc"]);
  expect(named("Run 3").getAttribute("aria-expanded")).toBe("true");
  named("Run 3").click();
  expect(last()).toEqual({ type: "run", run: 0 });
  page.model.set("run_view", null);
  page.model.set("run_shown", { run: 0, note: "" });
  await drawn();
  expect([$(".oj-dock").hidden, $(".oj-run").hidden]).toEqual([true, true]);
});

test("a page that cannot show a widget inside another shows the run's static view", async () => {
  const shown = { run_view: "IPY_MODEL_abc", run_shown: { run: 3, note: "" } };
  open(state(1, [message(1, "q"), message(2, "a", { numbers })]), shown);
  await drawn();
  await vi.waitFor(() => expect(last()).toEqual({ type: "run", run: 3, html: true }));
  receive({ type: "run", run: 3, html: "<style>p { color: red }</style><p>static</p>" });
  await drawn();
  const apart = [...page.host.querySelectorAll(".oj-run div")].find((each) => each.shadowRoot)!;
  expect(apart.shadowRoot!.querySelector("p")!.textContent).toBe("static");
  expect(sent()).toHaveLength(1);
});

test("watching says where earlier answers are, and names the latest beside an open run", async () => {
  open(state(1, [message(1, "q"), message(2, "a", { numbers })]), { watch: true });
  await drawn();
  const [hint, name] = [".oj-watch .oj-facts", ".oj-watch strong"];
  expect(textOf(hint)).toMatch(/next answer is shown here.*Run, below an answer, shows that one/);
  expect([$(hint).hidden, $(name).hidden]).toEqual([false, true]);
  page.model.set("run_shown", { run: 3, note: "" });
  await drawn();
  expect([$(hint).hidden, $(name).hidden]).toEqual([true, true]);
  page.model.set("live", "IPY_MODEL_abc");
  await drawn();
  expect([$(hint).hidden, $(name).hidden, textOf(name)]).toEqual([true, false, "Latest answer"]);
});

test("a run that is no longer kept is replaced by a note", async () => {
  open(state(1, [message(1, "q"), message(2, "a", { numbers })]), {
    run_shown: { run: 3, note: "run 3 is no longer kept" },
  });
  await drawn();
  expect(textOf(".oj-dock .oj-run")).toContain("run 3 is no longer kept");
});

test("the focus stays on a version's buttons, and goes to the box during an answer", async () => {
  const one = [message(1, "q"), message(2, "a", { siblings: [2, 4] })];
  open(state(1, one));
  await drawn();
  answers("Later version").focus();
  const other = [message(1, "q"), message(4, "b", { siblings: [2, 4] })];
  page.model.set("state", state(2, other));
  await drawn();
  expect(document.activeElement).toBe(answers("Earlier version")); // later there is none
  named("Try again").focus();
  const third = message(6, "", { siblings: [2, 4, 6], ended: "running" });
  page.model.set("state", state(3, [message(1, "q"), third], { running: true }));
  await drawn();
  expect(document.activeElement).toBe(box());
});

test("after an accepted edit the focus is in the box, where Escape stops the answer", async () => {
  open(state(1, [message(1, "q"), message(2, "a")]));
  await drawn();
  named("Edit").click();
  await userEvent.keyboard("!{Enter}");
  receive({ type: "accepted", request: last().request });
  const writing = [message(3, "q!", { siblings: [1, 3] }), message(4, "", { ended: "running" })];
  page.model.set("state", state(2, writing, { running: true }));
  await drawn();
  expect(document.activeElement).toBe(box());
  await userEvent.keyboard("{Escape}");
  expect(last()).toEqual({ type: "stop" });
});

test("screen readers read an answer once, when it is complete", async () => {
  open(state(1, [message(1, "q"), message(2, "a", { ended: "running" })], { running: true }));
  await drawn();
  expect($("[role=log]").getAttribute("aria-live")).toBe("off");
  page.model.set("state", state(2, [message(1, "q"), message(2, "a b")]));
  await drawn();
  expect($("[role=log]").getAttribute("aria-live")).toBe("polite");
});

test("the saved view is hidden while the widget is live, however often it is drawn", async () => {
  const saved = (name: string) => {
    const node = document.createElement("div");
    node.className = `oj-saved ${name}`;
    node.textContent = "saved";
    document.body.append(node);
    return node;
  };
  const before = saved("oj-chat-1");
  open(state(1, [message(1, "q")]));
  const after = saved("oj-chat-1");
  const other = saved("oj-chat-2");
  expect([before, after, other].map((node) => node.checkVisibility())).toEqual([
    ...[false, false, true],
  ]);
  page.close();
  expect(before.checkVisibility()).toBe(true);
  for (const node of [before, after, other]) node.remove();
});
