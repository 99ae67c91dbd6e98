// The colours of the residency map: the scale from "stays longest" to "next out".

import { pack } from "../../charts/colours";
import { parse, perTheme, type Theme } from "../../widget/theme";
import { SHADES } from "../places";

/** The packed colour of each level: 0 on SSD, 1 stays longest, SHADES next out. */
export const residencyColours = perTheme((theme) => {
  const stops = stopsOf(theme).map(parse);
  const shades = Array.from({ length: SHADES }, (_, n) => {
    const at = (n / (SHADES - 1)) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(at));
    return pack(stops[low].map((c, i) => c + (stops[low + 1][i] - c) * (at - low)));
  });
  return Uint32Array.of(pack(parse(theme.empty)), ...shades);
});

/** The scale's colours, as in the legend's gradient. */
export const stopsOf = (theme: Theme): string[] => [theme.stays, theme.between, theme.next];
