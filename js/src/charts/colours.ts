// Colours of a map's cells, packed for ImageData.

import { parse, perTheme } from "../widget/theme";

/** Cividis (Nuñez, Anderton, Renslow 2018) at ten evenly spaced places; as in palette.py. */
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

/** A colour as the little-endian word of an ImageData pixel. */
export function pack([r, g, b]: readonly number[]): number {
  return ((255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;
}

/** Cividis in 256 colours; entry 0, for a count of zero, is the theme's colour of empty cells. */
export const cividisOf = perTheme((theme) => {
  const out = new Uint32Array(256);
  out[0] = pack(parse(theme.empty));
  for (let level = 1; level < 256; level += 1) {
    const at = ((level - 1) / 254) * (CIVIDIS.length - 1);
    const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
    const t = at - low;
    out[level] = pack(CIVIDIS[low].map((c, i) => c + (CIVIDIS[low + 1][i] - c) * t));
  }
  return out;
});
