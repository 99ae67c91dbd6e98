// Colours of a map's cells, packed for ImageData.

import { parse, perTheme, type Theme } from "../widget/theme";

/** Cividis (Nuñez, Anderton, Renslow 2018) at ten evenly spaced places; as in palette.py. */
const CIVIDIS: readonly (readonly [number, number, number])[] = [
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

/** A colour as the little-endian word of an ImageData pixel. */
export function pack([r, g, b]: readonly number[]): number {
  return ((255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;
}

/** The part of it that a theme's maps use: on a dark page the darkest would look like empty cells. */
export const stopsOn = (theme: Theme) => CIVIDIS.slice(parse(theme.ink)[0] > 127 ? 2 : 0);

/** Cividis in 256 colours; entry 0, for a count of zero, is the theme's colour of empty cells. */
export const cividisOf = perTheme((theme) => {
  const out = new Uint32Array(256);
  const stops = stopsOn(theme);
  out[0] = pack(parse(theme.empty));
  for (let level = 1; level < 256; level += 1) {
    const at = ((level - 1) / 254) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    const t = at - low;
    out[level] = pack(stops[low].map((c, i) => c + (stops[low + 1][i] - c) * t));
  }
  return out;
});
