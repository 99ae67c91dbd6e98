// What one redraw shows: which steps, which of them is looked at, and the experts as of then.

import type { Focus } from "../charts/focus";
import type { Past } from "./history";
import { type Span, span, stepName } from "../charts/step-range";
import type { Picture, RunState } from "./state";
import type { Theme } from "../widget/theme";

/** An expert that a token chose, at layer * experts + expert. */
export interface Chosen {
  index: number;
  hit: boolean;
}

export interface Look {
  theme: Theme;
  shown: Span;
  /** Experts now, or as they were after `shown.until`. */
  picture: Picture;
  /** What the token that is looked at chose, where its routing is kept. */
  chosen?: readonly Chosen[];
  /** The token that is looked at, and the experts as it found them, where that is kept. */
  found?: { step: number; picture: Picture };
  /** The steps that chose the expert that is looked at. */
  lit?: readonly number[];
  name: (step: number) => string;
}

export function lookAt(
  state: RunState,
  focus: Focus,
  theme: Theme,
  picture: Picture,
  until: number | null,
  before: Past,
): Look {
  const shown = span(state, until);
  const look: Look = { theme, shown, picture, name: (step) => stepName(step, shown) };
  const { step, cell } = focus;
  if (step !== null && state.routing.has(step)) {
    const chosen: Chosen[] = [];
    state.routing.forEach(step, state.experts, (index, hit) => chosen.push({ index, hit }));
    look.chosen = chosen;
    const found = before.foundBy(step);
    if (found) look.found = { step, picture: found };
  }
  if (cell?.expert != null) look.lit = state.usersOf(cell.layer, cell.expert);
  return look;
}
