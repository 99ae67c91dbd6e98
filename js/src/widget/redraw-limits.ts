// How often a view redraws at most.

/** Milliseconds between redraws under prefers-reduced-motion. */
export const REDUCED_MOTION_REDRAW_MS = 500;

/** After a redraw that was expensive a view rests for this many times its cost. */
export const REST_FACTOR = 4;
