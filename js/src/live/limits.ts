// The numbers that more than one module needs. Colours live in root.css and are read by theme.ts.

/** Steps kept; the same bound as KEPT_STEPS in merging.py. */
export const KEPT_STEPS = 4_000;

/** Characters of text kept; more than the Python side keeps, so that a snapshot always fits. */
export const KEPT_TEXT = 200_000;

/** Bytes of routing kept, and moves: enough for KEPT_STEPS of all but the widest models. */
export const KEPT_ROUTING = 8_000_000;
export const KEPT_MOVES = 200_000;

/** An expert that came within this many tokens is marked as new. */
export const RECENT_STEPS = 3;

/** For so long after a token its experts glow, in ms. */
export const GLOW_MS = 600;

/** While nobody sees a run, its kernel is asked for a frame only so often, in ms. */
export const UNSEEN_MS = 1_000;

/** Messages waiting for a redraw; beyond it (a hidden page) they are folded at once. */
export const MAX_QUEUED = 64;

/** Plot margins in CSS pixels, the same in all panels so that their axes line up. */
export const MARGIN = { left: 44, right: 10, top: 6, bottom: 18 } as const;

/** The narrowest span of tokens a chart shows: the first bars would be as wide as doors. */
export const MIN_SPAN = 24;

/** Under prefers-reduced-motion the view is redrawn this seldom. */
export const CALM_REDRAW_MS = 500;

/** A frame may cost so much, in ms. Where it costs more, the view rests for REST times its cost. */
export const FRAME_BUDGET_MS = 8;
export const REST = 4;
