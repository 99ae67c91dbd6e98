"""Which rank owns which expert: evenly, or balanced by how often a recorded run used each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import OptionError

Placement: TypeAlias = list[npt.NDArray[np.int64]]
"""For each MoE layer the rank of each expert, [experts]."""


def even(experts_per_layer: Sequence[int], ranks: int) -> Placement:
    """Expert by expert in turn; each layer begins with another rank."""
    return [(np.arange(count) + layer) % ranks for layer, count in enumerate(experts_per_layer)]


def learned(experts_per_layer: Sequence[int], ranks: int, experts: npt.NDArray[Any]) -> Placement:
    """Balanced: a layer's experts, the most used first, each to the rank with the least use so far.

    No rank gets more of a layer's experts than an even share, rounded up, so that caches of one
    size suit all.

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
        chosen = experts[:, layer]
        uses = np.bincount(chosen[chosen >= 0], minlength=count)
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
