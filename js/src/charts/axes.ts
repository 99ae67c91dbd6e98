// Axes: margins, tick positions, and titles on a canvas.

/** Plot margins in CSS pixels. All panels share them, so their axes line up. */
export const MARGIN = { left: 44, right: 10, top: 6, bottom: 18 } as const;

/** Whole-number tick positions in [from, to), about `wanted` of them at most. */
export function wholeTicks(from: number, to: number, wanted: number): number[] {
  const step = niceStep((to - from) / Math.max(1, wanted), 1);
  const out: number[] = [];
  for (let at = Math.ceil(from / step) * step; at < to; at += step) out.push(at);
  return out;
}

/** The smallest of 1, 2 or 5 times a power of ten that is at least `raw` and `least`. */
export function niceStep(raw: number, least = 0): number {
  const wanted = Math.max(raw, least, 1e-12);
  const power = 10 ** Math.floor(Math.log10(wanted) + 1e-9);
  const factor = [1, 2, 5, 10].find((f) => f * power >= wanted * (1 - 1e-9)) ?? 10;
  return factor * power;
}

/**
 * Draw the horizontal axis's title in the corner below the vertical axis, which ends at y = `base`.
 */
export function drawCorner(context: CanvasRenderingContext2D, text: string, base: number): void {
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  context.fillText(text, 4, base + 13);
}

/** Draw an axis title that reads upwards, centred on (x, y). */
export function drawSideways(
  context: CanvasRenderingContext2D,
  text: string,
  x: number,
  y: number,
): void {
  context.save();
  context.translate(x, y);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(text, 0, 0);
  context.restore();
}
