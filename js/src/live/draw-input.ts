// Collects what one redraw shows: the steps, the selection, and the experts at that moment.

import type { Focus } from "../charts/focus";
import type { Chosen } from "../charts/marks";
import { capacityFor, MIN_STEPS, type StepRange, stepName } from "../charts/step-range";
import type { Theme } from "../widget/theme";
import { type Users, usersOf } from "./chosen-tokens";
import type { ExpertHistory } from "./history";
import type { ExpertStates, RunState } from "./state";

export interface DrawInput {
  theme: Theme;
  shown: StepRange;
  /** The playhead's step; null while the view follows the run. */
  at: number | null;
  /** The step to describe: the hovered one, else the playhead's; null while the run is followed. */
  step: number | null;
  /** Whether the playhead rests on a token: what is costly to show may then be shown. */
  resting: boolean;
  /** The experts now, or as they were after the playhead's step. */
  experts: ExpertStates;
  /** The experts that the step to describe chose, if its routing is kept. */
  chosen?: readonly Chosen[];
  /** The experts after the step to describe, if that is kept; `experts` while none is described. */
  expertsThen?: ExpertStates;
  /** The steps that chose any of the selected experts, and how many tokens did. */
  users?: readonly number[];
  chosenBy?: Users;
  /** Changes with what is known of the steps. */
  version: string;
  /** What a step is called: "token 12". */
  name: (step: number) => string;
}

/** `history` is moved to the step to describe. */
export function drawInput(
  state: RunState,
  focus: Focus,
  theme: Theme,
  experts: ExpertStates,
  history: ExpertHistory,
  resting = true,
): DrawInput {
  const { at, step, experts: selected } = focus;
  const shown = focus.zoom.apply(stepRange(state), at);
  const name = (step: number) => stepName(step, shown);
  const version = `${state.epoch} ${state.seq}`;
  const input: DrawInput = { theme, shown, at, step, resting, experts, version, name };
  if (step !== null && state.routing.has(step)) {
    const chosen: Chosen[] = [];
    state.routing.forEach(step, state.experts, (index, hit) => chosen.push({ index, hit }));
    input.chosen = chosen;
  }
  const expertsThen = step === null || step === at ? experts : history.after(step);
  if (expertsThen) input.expertsThen = expertsThen;
  if (selected.length) {
    input.chosenBy = usersOf(state, selected);
    input.users = input.chosenBy.steps;
  }
  return input;
}

/**
 * The steps on the charts' axis. While the prompt is read they are the prompt's. Then they begin at
 * the step that produced the first token: a long prompt would fill the charts, and its cost is per
 * chunk, not per token.
 */
export function stepRange(state: RunState): StepRange {
  const prompt = state.generated === 0;
  const origin = prompt ? 0 : state.firstToken;
  const from = Math.max(origin, state.steps.first);
  const end = state.steps.end;
  const to = state.final ? Math.max(end, from + MIN_STEPS) : from + capacityFor(end - from);
  return { from, to, origin, prompt };
}
