// Formats numbers for people. Units are decimal (1 GB = 10^9 bytes), as in the package's options.

export const NONE = "–";

/** 1234567 → "1,234,567", as formatting.py. */
export function integer(value: number): string {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

/** Three significant digits, no exponent: 0.123, 1.23, 12.3, 123; one digit below 0.001: 0.0004. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return NONE;
  if (value === 0) return "0";
  if (Math.abs(value) < 0.001)
    return value.toFixed(Math.min(20, Math.ceil(-Math.log10(Math.abs(value)))));
  let digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  // A value that rounds up to the next power of ten has one more digit.
  if (Math.abs(value) + 0.5 / 10 ** digits >= 10 ** (3 - digits)) digits = Math.max(0, digits - 1);
  return value >= 1000 ? integer(value) : value.toFixed(Math.min(3, digits));
}

/** A number that somebody chose, as it was given: 8, 0.5. */
export function given(value: number): string {
  return String(Number(value.toPrecision(3)));
}

/** A share in percent, as formatting.py: one decimal, and more of them close to 0 % or 100 %. */
export function percent(part: number, whole = 1): string {
  const share = part / whole;
  if (!Number.isFinite(share)) return NONE;
  const least = 100 * Math.min(Math.abs(share), Math.abs(1 - share));
  const digits = least ? Math.min(20, Math.max(1, Math.ceil(-Math.log10(least)))) : 1;
  return `${(100 * share).toFixed(digits).replace(/\.?0+$/, "")}\u202f%`;
}

export function ms(value: number): string {
  return Number.isFinite(value) ? `${short(value)}\u202fms` : NONE;
}

/** A number of nats, as of a surprise or an entropy. */
export const nats = (value: number): string => `${short(value)}\u202fnats`;

/** The probability, in percent, whose logarithm this is. */
export const probability = (logprob: number): string =>
  percent(Number(Math.exp(logprob).toPrecision(3)));

const UNITS = ["B", "kB", "MB", "GB", "TB"] as const;

/** The power of 1000, and its unit, that suits `value` best. */
export function byteScale(value: number): { factor: number; unit: string } {
  let power = 0;
  for (let rest = value; rest >= 999.5 && power < 4; rest /= 1000) power += 1;
  return { factor: 1000 ** power, unit: UNITS[power] };
}

export function bytes(value: number): string {
  if (!Number.isFinite(value)) return NONE;
  const { factor, unit } = byteScale(value);
  return `${short(value / factor)}\u202f${unit}`;
}

/** Seconds in two units at most: 8 s, 1 min 20 s, 2 h 5 min. */
export function duration(seconds: number): string {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) return `${whole}\u202fs`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}\u202fmin ${whole % 60}\u202fs`;
  return `${Math.floor(minutes / 60)}\u202fh ${minutes % 60}\u202fmin`;
}

/** A count and its noun: "1 read", "2 reads". */
export function plural(n: number, word: string): string {
  return `${integer(n)}\u202f${word}${n === 1 ? "" : "s"}`;
}

/** A token's text in quotes, with visible spaces and line ends; "" for no text. */
export function quoted(text: string): string {
  if (!text) return "";
  return `“${text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "\u00a0")}”`;
}
