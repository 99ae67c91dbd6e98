// Where an axis has its ticks, and its titles on a canvas.

/** Whole-number tick positions in [from, to), at most about `wanted` of them. */
export function wholeTicks(from: number, to: number, wanted: number): number[] {
  const step = niceStep((to - from) / Math.max(1, wanted), 1);
  const out: number[] = [];
  for (let at = Math.ceil(from / step) * step; at < to; at += step) out.push(at);
  return out;
}

/** 1, 2 or 5 times a power of ten, at least `raw` and `least`. */
export function niceStep(raw: number, least = 0): number {
  const wanted = Math.max(raw, least, 1e-12);
  const power = 10 ** Math.floor(Math.log10(wanted) + 1e-9);
  const factor = [1, 2, 5, 10].find((f) => f * power >= wanted * (1 - 1e-9)) ?? 10;
  return factor * power;
}

/** The horizontal axis's title, below the vertical axis whose foot is at `base`. */
export function drawCorner(context: CanvasRenderingContext2D, text: string, base: number): void {
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  context.fillText(text, 4, base + 13);
}

/** An axis title that reads upwards, centred on (x, y). */
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
