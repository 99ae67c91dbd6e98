// Bounds that more than one module of the run view needs.

/** Steps that a page keeps at least: more than a snapshot has (KEPT_STEPS in merge_frames.py). */
export const KEPT_STEPS = 12_000;

/** Characters of text kept: more than the Python side keeps, so that a snapshot always fits. */
export const KEPT_TEXT = 200_000;

/** An expert that arrived or was evicted within this many tokens is marked. */
export const RECENT_STEPS = 3;

/** Milliseconds between the frames that an unseen view requests. */
export const UNSEEN_MS = 1_000;
