// Bounds that more than one module of the run view needs.

/** Steps kept; the same bound as KEPT_STEPS in merge_frames.py. */
export const KEPT_STEPS = 4_000;

/** Characters of text kept: more than the Python side keeps, so that a snapshot always fits. */
export const KEPT_TEXT = 200_000;

/** An expert that arrived or was evicted within this many tokens is marked. */
export const RECENT_STEPS = 3;

/** Milliseconds between the frames that an unseen view requests. */
export const UNSEEN_MS = 1_000;
