// Formulas in answers, and the modules that the page asks for when it first needs them.

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import {
  $,
  arrived,
  clear,
  drawn,
  message,
  open,
  page,
  prepare,
  receive,
  requested,
  state,
  textOf,
} from "./chatting";

beforeEach(prepare);
afterEach(clear);

const answer = (text: string) => state(1, [message(1, "q"), message(2, text)]);
const all = (selector: string) => [...page.host.querySelectorAll<HTMLElement>(selector)];

test("formulas are typeset, inline and displayed, in all four forms", async () => {
  const text = String.raw`So $x_1 * x_2$ and \(y^2 < 3\) hold:

$$
\sum_{i=1}^n i
= \frac{n(n+1)}{2}
$$

then \[ z \] and
\[
- a
\]
at the end, $$w$$ inside.`;
  open(answer(text));
  await drawn();
  await arrived("math");
  expect(all(".oj-math math")).toHaveLength(2);
  expect(all(".oj-display math")).toHaveLength(4);
  expect(all("mfrac")).toHaveLength(1);
  expect(all("code.oj-formula, em")).toEqual([]);
  expect(textOf(".oj-math msub")).toBe("x1");
  expect(all("math").every((each) => each.namespaceURI!.endsWith("MathML"))).toBe(true);
  expect(requested().sort()).toEqual(["formula-symbols", "formulas"]);
});

test("money, shell variables and code are no formulas, and ask for no module", async () => {
  const text = `It costs $5 and $6, or US$7 to US$8, $20,000–$30,000; 5 or 6.
From $5 per day (or less) to 7$, \\$1 to \\$2, $HOME/$PATH, $ a $, $$, $$$.

\`$x$\` and \`\\(y\\)\`

    $z$ $$z$$
`;
  open(answer(text));
  await drawn();
  expect(all("math, .oj-formula")).toEqual([]);
  expect(textOf(".oj-body p")).toContain("It costs $5 and $6, or US$7 to US$8, $20,000–$30,000");
  expect(textOf(".oj-body p")).toContain("From $5 per day (or less) to 7$, $1 to $2, $HOME/$PATH");
  expect(requested()).toEqual([]);
});

test("formulas in code stay code", async () => {
  open(answer("```latex\n$x$ \\[y\\]\n$$\nz\n$$\n```\n\n`$a$` but $b$"));
  await drawn();
  await arrived("math");
  expect(all("math").map((each) => each.textContent)).toEqual(["b"]);
  expect(textOf(".oj-code code")).toBe("$x$ \\[y\\]\n$$\nz\n$$\n");
});

test("a formula that cannot be read shows its source, with the reason", async () => {
  open(answer(String.raw`Bad: $\frac{a}$ and \(\unheard{b}\), good: $c$, unfinished: $$\frac{`));
  await drawn();
  await arrived("math");
  const broken = all("code.oj-formula");
  expect(broken.map((each) => each.textContent)).toEqual([
    String.raw`$\frac{a}$`,
    String.raw`\(\unheard{b}\)`,
  ]);
  expect(broken[1].title).toContain("unheard");
  expect(textOf(".oj-assistant .oj-body")).toContain(String.raw`unfinished: $$\frac{`);
});

test("a formula is never HTML, links nowhere and fetches nothing", async () => {
  const bad = [
    String.raw`\href{javascript:window.hit=1}{x}`,
    String.raw`\url{https://example.org}`,
    String.raw`\includegraphics{https://example.org/a.png}`,
    String.raw`\htmlStyle{background:url(https://example.org)}{x}`,
    String.raw`\color{red;background:url(https://example.org)}x`,
    String.raw`\text{<img src=x onerror="window.hit=1"></math><script>window.hit=1</script>}`,
    '<img src=x onerror="window.hit=1">',
    String.raw`\class{oj-stop}{x}`,
    String.raw`\def\a{\a\a}\a`,
    String.raw`\rule{100000em}{100000em}`,
  ];
  open(answer(`${bad.map((tex) => `$${tex}$`).join("\n\n")}\n\n$ok$`));
  await drawn();
  await arrived("math");
  expect(all("img, script, .oj-body a, .oj-body .oj-stop, [href], [src], [onerror]")).toEqual([]);
  const styles = all(".oj-body [style]").map((each) => each.getAttribute("style"));
  expect(styles.filter((style) => /url/.test(style!))).toEqual([]);
  expect($(".oj-body").scrollHeight).toBeLessThan(3_000);
  await new Promise((later) => setTimeout(later, 50));
  expect("hit" in window).toBe(false);
});

test("the page asks once for a module, and draws what waits for it", async () => {
  open(answer("```python\nx = 1\n```\n\n```py\ny = 'a'\n```"));
  await drawn();
  await arrived(".oj-code-str");
  receive({ type: "state", state: { ...answer("```py\nif z: pass\n```"), seq: 9 } });
  await drawn();
  expect(textOf(".oj-code-kwd")).toBe("if");
  expect(requested()).toEqual(["highlight"]);
});

test("where a module cannot be imported, code is plain and formulas are TeX", async () => {
  open(answer("```python\nif x: pass\n```\n\nand $y^2$"));
  page.model.modules = { highlight: "this is no JavaScript", formulas: "export const x = ;" };
  await drawn();
  await vi.waitFor(() => expect(requested().sort()).toEqual(["formulas", "highlight"]));
  await drawn();
  expect(textOf(".oj-code code")).toBe("if x: pass\n");
  expect(textOf("code.oj-formula")).toBe("$y^2$");
  expect(all("math, .oj-code span[class^=oj-code-]")).toEqual([]);
});
