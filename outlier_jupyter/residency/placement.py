"""Which rank owns which expert: evenly, or balanced by what a recorded run would read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import OptionError

Placement: TypeAlias = list[npt.NDArray[np.int64]]
"""For each MoE layer the rank of each expert, [experts]."""


def even(experts_per_layer: Sequence[int], ranks: int) -> Placement:
    """In turn: each row of `ranks` experts is on all ranks, and each layer turns its rows anew.

    Were all layers alike, a rank could have the experts that are used most in many of them.
    """
    found: Placement = []
    for layer, count in enumerate(experts_per_layer):
        expert = np.arange(count)
        row = expert // ranks
        turn = layer * (1 + row) + layer // ranks * (row // ranks)
        found.append((expert + turn) % ranks)
    return found


def learned(experts_per_layer: Sequence[int], ranks: int, experts: npt.NDArray[Any]) -> Placement:
    """Balanced: a layer's experts, the costliest first, each to the rank with the least so far.

    An expert costs a read when a token chooses it that the token before did not choose; balanced by
    all choices, ranks differ by twice as much in what they read. No rank gets more of a layer's
    experts than an even share, rounded up, so that caches of one size suit all.

    Args:
        experts: [steps, layers, k] of a run of the same model; -1 for none.

    Raises:
        OptionError: the run is of another model.
    """
    if experts.shape[1] != len(experts_per_layer) or any(
        experts[:, layer].max(initial=-1) >= count for layer, count in enumerate(experts_per_layer)
    ):
        raise OptionError(
            f"the trace to place experts by has {experts.shape[1]} layers, of other sizes than "
            f"this model's {len(experts_per_layer)}: give a trace of this model, or leave it out"
        )
    total = np.zeros(ranks)
    found: Placement = []
    for layer, count in enumerate(experts_per_layer):
        uses = _entries(experts[:, layer], count)
        rank_of, room = np.empty(count, np.int64), np.full(ranks, -(-count // ranks))
        load = np.zeros(ranks)
        for expert in np.argsort(-uses, kind="stable").tolist():
            open_ranks = np.flatnonzero(room)
            best = min(open_ranks.tolist(), key=lambda rank: (load[rank], total[rank], rank))
            rank_of[expert] = best
            room[best] -= 1
            load[best] += uses[expert]
            total[best] += uses[expert]
        found.append(rank_of)
    return found


def _entries(chosen: npt.NDArray[Any], experts: int) -> npt.NDArray[np.int64]:
    """How often each expert is chosen by a token and was not by the one before; [experts]."""
    used = np.zeros((len(chosen) + 1, experts + 1), bool)  # the last column is -1's
    used[np.arange(1, len(chosen) + 1)[:, None], chosen] = True
    found: npt.NDArray[np.int64] = (used[1:] & ~used[:-1]).sum(axis=0)[:experts]
    return found
