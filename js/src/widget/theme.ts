// The colours in use, read from root.css, and whether the page is light or dark.
//
// The surface is the host's own (JupyterLab's or VS Code's variable); root.css falls back to a
// colour of its own. Its brightness decides which of our two palettes is readable on it.

import { STAGES } from "../live/recency-fade";

/** How far an expert in use turns towards the ink. */
const IN_USE = 0.8;

const ROLES = [
  "surface",
  "ink",
  "muted",
  "grid",
  "band",
  "empty",
  "resident",
  "left",
  "hit",
  "miss",
  "p50",
  "p95",
  "top",
  "read",
  "mark",
  "lit",
  "dense",
  "experts",
  "graph",
  "route",
  "lookup",
  "install",
  "sample",
  "watch",
  "other",
] as const;

export type Role = (typeof ROLES)[number];
export type Theme = Record<Role, string> & {
  dark: boolean;
  font: string;
  /** Cividis in 256 colours, packed for ImageData; entry 0 is that of a count of zero. */
  ramp: Uint32Array;
  /** By RESIDENCY's levels, packed likewise. */
  residency: Uint32Array;
};

/** Levels of the residency map. In use, in as many stages as glow.ts has, follows RESIDENT. */
export const RESIDENCY = {
  ABSENT: 0,
  RESIDENT: 1,
  LEFT: STAGES + 2,
  ARRIVED: STAGES + 3,
} as const;

/** Cividis (Nuñez, Anderton, Renslow 2018) at ten even places; as in palette.py. */
export const CIVIDIS: readonly (readonly [number, number, number])[] = [
  [0, 34, 78],
  [18, 53, 112],
  [59, 73, 108],
  [87, 93, 109],
  [112, 113, 115],
  [138, 134, 120],
  [165, 156, 116],
  [195, 179, 105],
  [225, 204, 85],
  [254, 232, 56],
];

/** Decide light or dark for `root`, mark it, and read the colours that then hold. */
export function readTheme(root: HTMLElement): Theme {
  const style = getComputedStyle(root);
  const [r, g, b, alpha] = parse(style.backgroundColor);
  const seeThrough = alpha < 0.5;
  const dark = seeThrough
    ? matchMedia("(prefers-color-scheme: dark)").matches
    : 0.2126 * r + 0.7152 * g + 0.0722 * b < 110;
  root.dataset.ojTheme = dark ? "dark" : "light";
  const theme = { dark, font: `11px ${style.fontFamily}` } as Theme;
  for (const role of ROLES) theme[role] = style.getPropertyValue(`--oj-${role}`).trim();
  theme.surface = seeThrough ? (dark ? "#16181c" : "#ffffff") : style.backgroundColor;
  theme.ramp = ramp(pack(parse(theme.empty)));
  theme.residency = residency(theme);
  return theme;
}

/** Call `changed` when the page's theme may have changed, until `signal` aborts. */
export function watchTheme(changed: () => void, signal: AbortSignal): void {
  const observer = new MutationObserver(changed);
  const attributeFilter = ["class", "style", "data-jp-theme-name", "data-jp-theme-light"];
  for (const node of [document.documentElement, document.body]) {
    observer.observe(node, { attributes: true, attributeFilter });
  }
  // JupyterLab swaps a style sheet some time after it has renamed the theme.
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

/** A colour as the little-endian word that an ImageData pixel is. */
export function pack([r, g, b]: readonly number[]): number {
  return ((255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;
}

/** In use, a resident expert turns towards the ink: darker on a light page, lighter on a dark one. */
function residency(theme: Theme): Uint32Array {
  const [resident, ink] = [parse(theme.resident), parse(theme.ink)];
  const used = Array.from({ length: STAGES + 1 }, (_, stage) =>
    pack(resident.map((c, i) => c + ((ink[i] - c) * (IN_USE * stage)) / STAGES)),
  );
  return Uint32Array.of(
    pack(parse(theme.empty)),
    ...used,
    pack(parse(theme.left)),
    pack(parse(theme.miss)),
  );
}

function ramp(empty: number): Uint32Array {
  const out = new Uint32Array(256);
  out[0] = empty;
  for (let level = 1; level < 256; level += 1) {
    const at = ((level - 1) / 254) * (CIVIDIS.length - 1);
    const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
    const t = at - low;
    out[level] = pack(CIVIDIS[low].map((c, i) => c + (CIVIDIS[low + 1][i] - c) * t));
  }
  return out;
}
