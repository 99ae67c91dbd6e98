// Accessibility: contrast, cues besides colour, and the keyboard, on the colours of each host.

import { afterEach, expect, test, vi } from "vitest";
import "../../src/live.css";
import widget from "../../src/live";
import { residencyColours } from "../../src/live/panels/residency-levels";
import { SHADES } from "../../src/live/places";
import { el } from "../../src/widget/dom";
import { parse, readTheme } from "../../src/widget/theme";
import { encode, MockModel, PARTS, Synthetic, settled } from "../synthetic";

const SHAPE = { layers: 4, experts: 16, k: 2, slots: 20, prompt: 5, expertBytes: 1_000_000 };
const INFO = { model: "tiny", changed_output: "top_k=4 instead of 8", prompt: "Say hi" };

let host: HTMLElement;
let model: MockModel;
let run: Synthetic;

function open(tokens = 8): void {
  document.body.style.cssText = "margin: 0";
  host = document.body.appendChild(el("div", ""));
  model = new MockModel({ info: { ...INFO, parts: PARTS } });
  const instance = widget();
  instance.initialize({ model });
  instance.render({ model, el: host });
  model.set("status", "running");
  run = new Synthetic(SHAPE);
  model.frame(encode(run.next(5, false)));
  for (let i = 0; i < tokens; i += 1) model.frame(encode(run.next(1, true)));
}

afterEach(() => {
  vi.restoreAllMocks();
  host.remove();
  document.body.style.cssText = "";
});

const $ = (selector: string) => host.querySelector<HTMLElement>(selector)!;

/** WCAG's relative luminance of a colour. */
function luminance(colour: readonly number[]): number {
  const [r, g, b] = colour.map((part) => {
    const c = part / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** WCAG's contrast ratio of two colours. */
function contrast(one: readonly number[], other: readonly number[]): number {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** A colour as it is seen without cones for green (Machado, Oliveira, Fernandes 2009). */
function deuteranopia(rgb: number[]): number[] {
  const rows = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ];
  const linear = rgb.map((c) => (c / 255) ** 2.2);
  return rows.map((row) => {
    const light = row.reduce((sum, weight, i) => sum + weight * linear[i], 0);
    return 255 * Math.min(1, Math.max(0, light)) ** (1 / 2.2);
  });
}

/** How far two colours are apart, in RGB. */
const distance = (a: number[], b: number[]): number =>
  Math.hypot(...[0, 1, 2].map((i) => a[i] - b[i]));

/** Surfaces of JupyterLab light and dark, VS Code light and dark, under the name each goes by. */
const SURFACES = [
  ["--jp-layout-color1", "#ffffff"],
  ["--jp-layout-color1", "#111111"],
  ["--vscode-editor-background", "#ffffff"],
  ["--vscode-editor-background", "#1e1e1e"],
] as const;

test.each(SURFACES)("text is readable on %s %s", async (name, surface) => {
  open();
  document.body.style.setProperty(name, surface);
  await settled(host);
  expect($(".oj-root").dataset.ojTheme).toBe(surface === "#ffffff" ? "light" : "dark");
  const ground = parse(getComputedStyle($(".oj-root")).backgroundColor);
  const texts = [".oj-log", ".oj-subtitle", ".oj-readout", ".oj-status", ".oj-stop", ".oj-prompt"];
  texts.push(".oj-name", ".oj-value", ".oj-badge", ".oj-where", ".oj-legend-item", ".oj-as-table");
  for (const selector of texts) {
    const ink = parse(getComputedStyle($(selector)).color);
    expect(contrast(ink, ground), selector).toBeGreaterThanOrEqual(4.5);
  }
  // A token with many misses has a shade behind it.
  const theme = readTheme($(".oj-root"));
  const shade = ground.slice(0, 3).map((c, i) => c + (parse(theme.miss)[i] - c) * 0.22);
  expect(contrast(parse(theme.ink), shade)).toBeGreaterThanOrEqual(4.5);
});

test.each(SURFACES)("the colours of the plots stand out on %s %s", async (name, surface) => {
  open();
  document.body.style.setProperty(name, surface);
  await settled(host);
  const theme = readTheme($(".oj-root"));
  const ground = parse(theme.surface);
  const marks = ["hit", "miss", "p50", "p95", "top", "read", "highlight", "route"];
  marks.push("dense", "experts", "graph", "lookup", "install", "sample", "watch", "other", "ink");
  const faint = marks.filter((role) => contrast(parse(theme[role as "hit"]), ground) < 3);
  expect(faint).toEqual([]);
  const focus = getComputedStyle($(".oj-root")).getPropertyValue("--oj-focus");
  expect(contrast(parse(focus.trim()), ground)).toBeGreaterThanOrEqual(3);
  // Signs on cells, and cells that differ only by brightness.
  expect(contrast(parse(theme.mark), parse(theme.miss))).toBeGreaterThanOrEqual(3);
  const word = (level: number) => {
    const packed = residencyColours(theme)[level];
    return [packed & 255, (packed >> 8) & 255, (packed >> 16) & 255];
  };
  // From "stays longest" to "next out" each shade is brighter, also without red-green vision.
  const [empty, ...shades] = Array.from({ length: SHADES + 1 }, (_, level) => word(level));
  for (const seen of [(rgb: number[]) => rgb, deuteranopia]) {
    const bright = shades.map((rgb) => contrast(seen(rgb), [0, 0, 0]));
    expect(bright).toEqual([...bright].sort((a, b) => a - b));
    expect(contrast(seen(shades[0]), seen(shades[SHADES - 1]))).toBeGreaterThanOrEqual(2.5);
    // Each is told from an expert on SSD, by brightness or by hue.
    for (const shade of shades) expect(distance(seen(shade), seen(empty))).toBeGreaterThan(60);
  }
});

test.each(SURFACES)(
  "the text is readable on its strongest colour on %s %s",
  async (name, colour) => {
    open();
    document.body.style.setProperty(name, colour);
    await settled(host);
    const ground = parse(getComputedStyle($(".oj-root")).backgroundColor);
    const token = host.querySelector<HTMLElement>(".oj-token")!;
    const ink = parse(getComputedStyle(token).color);
    for (const key of ["miss", "time", "entropy", "weight"]) {
      $(".oj-text").dataset.ojColour = key;
      token.style.setProperty("--oj-heat", "100");
      const [r, g, b, alpha] = parse(getComputedStyle(token).backgroundColor);
      const over = [r, g, b].map((part, i) => alpha * part + (1 - alpha) * ground[i]);
      expect(contrast(ink, over), key).toBeGreaterThanOrEqual(4.5);
      expect(contrast(ground, over), key).toBeGreaterThanOrEqual(1.5); // and the colour can be seen
    }
  },
);

test("screen readers read the selection, not each new token's numbers", async () => {
  open();
  await settled(host);
  const live = () =>
    [...host.querySelectorAll(".oj-readout")].map((each) => each.getAttribute("aria-live"));
  expect(new Set(live())).toEqual(new Set(["off"]));
  expect($(".oj-log").getAttribute("role")).toBe("log");
  const press = (key: string) =>
    $(".oj-time canvas").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  press("End");
  await settled(host);
  expect(new Set(live())).toEqual(new Set(["polite"]));
  press("Escape");
  await settled(host);
  expect(new Set(live())).toEqual(new Set(["off"]));
});

test("Tab reaches every control and every plot, and each shows the focus", async () => {
  open();
  await settled(host);
  const reached = [...host.querySelectorAll<HTMLElement>("button, select, input, [tabindex]")]
    .filter((each) => each.getClientRects().length > 0 && !each.matches(":disabled"))
    .filter((each) => each.tabIndex >= 0);
  const plots = [...host.querySelectorAll<HTMLElement>(".oj-canvas")].filter(
    (plot) => plot.offsetParent,
  );
  expect(plots).toHaveLength(6);
  expect(reached).toEqual(expect.arrayContaining([...plots]));
  for (const each of reached) {
    each.focus({ focusVisible: true } as FocusOptions);
    expect(document.activeElement).toBe(each);
    const { outlineStyle, outlineWidth } = getComputedStyle(each);
    expect([each.className, outlineStyle, outlineWidth]).toEqual([each.className, "solid", "2px"]);
    const name = each.getAttribute("aria-label") ?? each.textContent;
    expect(name, each.className).toBeTruthy();
  }
});

test("a button that hides itself leaves the focus, and the keys, to the view", async () => {
  open();
  model.set("status", "length");
  await settled(host);
  const slowest = $(".oj-slowest button");
  slowest.focus();
  slowest.click();
  await expect.poll(() => document.activeElement).toBe($(".oj-root"));
});

test("each panel and each plot is described in a sentence", async () => {
  open();
  await vi.waitFor(() => expect($(".oj-time .oj-summary").textContent).not.toBe(""), {
    timeout: 9_000,
  });
  const summary = (panel: string) => $(`.oj-${panel} .oj-summary`).textContent;
  expect(summary("text")).toMatch(/^9.tokens; \d+(\.\d)?.% of the lookups missed\.$/);
  expect(summary("routing")).toMatch(
    /^\d+ of 64.experts chosen; most often expert \d+ of layer \d,/,
  );
  expect(summary("residency")).toBe("20 of 20\u202fslots hold an expert.");
  expect(summary("latency")).toMatch(
    /MB read in \d+.reads; the longest took .*ms, for token \d\.$/,
  );
  expect(summary("time")).toMatch(/^The slowest, token \d, took .*; most time went to dense work,/);
  for (const node of host.querySelectorAll(".oj-panel:not(.oj-explain), .oj-plot > .oj-canvas")) {
    const id = node.getAttribute("aria-describedby")!;
    expect(node.closest(".oj-panel")!.querySelector(`#${id}`)).not.toBeNull();
  }
});

test("a first-time hint is shown until a token was chosen, and never again", async () => {
  localStorage.clear();
  open();
  await settled(host);
  expect($(".oj-first-hint").textContent).toContain("Click a word, or a token’s bar in Time");
  expect($(".oj-first-hint").hidden).toBe(false);
  expect($(".oj-explain").textContent!.split("Click a word")).toHaveLength(2); // it is said once
  host.querySelectorAll<HTMLElement>(".oj-token")[3].click();
  await settled(host);
  expect($(".oj-first-hint").hidden).toBe(true);
  host.remove();
  open();
  await settled(host);
  expect($(".oj-first-hint").hidden).toBe(true);
});

test("a page that refuses storage shows the hint, and closes it", async () => {
  const refuse = () => {
    throw new DOMException("refused", "SecurityError");
  };
  vi.spyOn(Storage.prototype, "getItem").mockImplementation(refuse);
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(refuse);
  open();
  await settled(host);
  expect($(".oj-first-hint").hidden).toBe(false);
  $(".oj-first-hint button").click();
  expect($(".oj-first-hint").hidden).toBe(true);
  await settled(host);
  expect($(".oj-explain").textContent).toContain("Click a word");
});

test("with reduced motion the view is drawn twice a second", async () => {
  const real = window.matchMedia.bind(window);
  vi.spyOn(window, "matchMedia").mockImplementation((query) =>
    query.includes("reduced-motion")
      ? ({ matches: true, addEventListener() {} } as unknown as MediaQueryList)
      : real(query),
  );
  open();
  await settled(host);
  await new Promise((resolve) => setTimeout(resolve, 600));
  const frames = vi.spyOn(window, "requestAnimationFrame");
  model.frame(encode(run.next(1, true)));
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(frames.mock.calls.length).toBeLessThanOrEqual(3); // the three frames of one redraw
});
