"""Divides the events of a call that several prompts share among their runs.

What belongs to a row (choices, weights) goes to the row's run. An expert that is read is read once
for all: its miss, its read and what it evicted count for one of the runs that chose it, and for the
others it is a hit. Which one changes from call to call and layer to layer, so that runs alike are
charged alike. Times are those of the whole call, in each run: every one of them waited for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ..events import Event, Evicted, PagedIn, RanksServed, Routed, Served, Waited, Weighed

Charged = dict[int, int]
"""Expert that was not resident → the run that is charged for it."""


def divided(events: Iterable[Event], spans: Sequence[slice], turn: int) -> list[list[Event]]:
    """The events of each run, in their order.

    Args:
        events: of one call, without `CallStarted` and what follows sampling.
        spans: the rows of each run; those of no run are padding.
        turn: the number of the call.
    """
    if len(spans) == 1:
        return [list(events)]
    found: list[list[Event]] = [[] for _ in spans]
    charged: dict[int, Charged] = {}
    for event in events:
        if isinstance(event, Routed):
            charged[event.layer] = _charged(event, spans, turn + event.layer)
            hits = _hits(event, spans, charged[event.layer])
            for run, span in enumerate(spans):
                mine = event._replace(experts=event.experts[span], hits=hits[span])
                found[run].append(mine)
        elif isinstance(event, Weighed):
            for run, span in enumerate(spans):
                found[run].append(Weighed(event.layer, event.weights[span]))
        elif isinstance(event, Waited | Served | RanksServed):
            for run in range(len(spans)):
                found[run].append(event)
        elif isinstance(event, PagedIn):
            found[charged.get(event.layer, {}).get(event.expert, turn % len(spans))].append(event)
        elif isinstance(event, Evicted):
            by = charged.get(event.by_layer, {})
            found[by.get(event.by_expert, turn % len(spans))].append(event)
        else:
            found[turn % len(spans)].append(event)
    return found


def _charged(event: Routed, spans: Sequence[slice], first: int) -> Charged:
    found: Charged = {}
    for place in range(first, first + len(spans)):
        run = place % len(spans)
        rows = event.experts[spans[run]]
        for expert in set(rows[~event.hits[spans[run]]].tolist()):
            found.setdefault(expert, run)
    return found


def _hits(event: Routed, spans: Sequence[slice], charged: Charged) -> npt.NDArray[np.bool_]:
    """`event.hits`, and what another run than the row's is charged for."""
    if not charged:
        return event.hits
    payers = np.full(int(event.experts.max()) + 1, -1)
    payers[[*charged]] = [*charged.values()]
    paid, run_of = payers[event.experts], np.full(len(event.experts), -1)
    for run, span in enumerate(spans):
        run_of[span] = run
    found: npt.NDArray[np.bool_] = event.hits | (paid >= 0) & (paid != run_of[:, None])
    return found
