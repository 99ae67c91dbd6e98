// The colours in use, as root.css sets them, and whether the page is light or dark.
//
// The surface is the host's own (JupyterLab's or VS Code's variable); root.css falls back to a
// colour of its own. Its brightness decides which of our two palettes is readable on it.

const ROLES = [
  ...(["surface", "ink", "muted", "grid", "band", "empty"] as const),
  ...(["stays", "between", "next"] as const),
  ...(["hit", "miss", "p50", "p95", "top", "read", "mark", "highlight"] as const),
  ...(["dense", "experts", "graph", "route", "lookup", "install", "sample", "watch"] as const),
  "other",
] as const;

export type Role = (typeof ROLES)[number];

/** A CSS colour for each role, and the font of a plot's labels. */
export type Theme = Record<Role, string> & { font: string };

/** Decide light or dark for `root`, set its data-oj-theme, and read the colours that apply. */
export function readTheme(root: HTMLElement): Theme {
  const style = getComputedStyle(root);
  const [r, g, b, alpha] = parse(style.backgroundColor);
  const seeThrough = alpha < 0.5;
  const dark = seeThrough
    ? matchMedia("(prefers-color-scheme: dark)").matches
    : 0.2126 * r + 0.7152 * g + 0.0722 * b < 110;
  root.dataset.ojTheme = dark ? "dark" : "light";
  const theme = { font: `11px ${style.fontFamily}` } as Theme;
  for (const role of ROLES) theme[role] = style.getPropertyValue(`--oj-${role}`).trim();
  theme.surface = seeThrough ? (dark ? "#16181c" : "#ffffff") : style.backgroundColor;
  return theme;
}

/** A function that computes `make` once per theme. */
export function perTheme<Value>(make: (theme: Theme) => Value): (theme: Theme) => Value {
  const made = new WeakMap<Theme, Value>();
  return (theme) => {
    const value = made.get(theme) ?? make(theme);
    made.set(theme, value);
    return value;
  };
}

/** Call `changed` when the page's theme may have changed, until `signal` aborts. */
export function watchTheme(changed: () => void, signal: AbortSignal): void {
  const observer = new MutationObserver(changed);
  const attributeFilter = ["class", "style", "data-jp-theme-name", "data-jp-theme-light"];
  for (const node of [document.documentElement, document.body]) {
    observer.observe(node, { attributes: true, attributeFilter });
  }
  // JupyterLab replaces a style sheet some time after it renames the theme.
  const sheets = new MutationObserver(() => setTimeout(changed, 50));
  sheets.observe(document.head, { childList: true });
  document.head.addEventListener("load", changed, { capture: true, signal });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed, { signal });
  signal.addEventListener("abort", () => {
    observer.disconnect();
    sheets.disconnect();
  });
}

/** Red, green, blue (0 to 255) and alpha (0 to 1) of "#rrggbb", "rgb(…)" or "rgba(…)". */
export function parse(colour: string): [number, number, number, number] {
  if (colour.startsWith("#")) {
    const digits = colour.length === 4 ? colour.replace(/[^#]/g, "$&$&") : colour;
    const value = Number.parseInt(digits.slice(1, 7), 16);
    return [(value >> 16) & 255, (value >> 8) & 255, value & 255, 1];
  }
  const scale = colour.startsWith("color(") ? 255 : 1;
  const parts = (colour.match(/[\d.]+/g) ?? []).map(Number);
  const [r = 0, g = 0, b = 0, alpha = parts.length ? 1 : 0] = parts;
  return [r * scale, g * scale, b * scale, alpha];
}
