"""A cache policy from outside the package: first in, first out. This file is all it takes."""

from __future__ import annotations

from collections.abc import Sequence

from outlier_jupyter.residency.policies import Policy, PolicySpec, register


class FirstIn(Policy):
    """What was looked up first, the first time, is evicted first."""

    name = "first-in"

    def __init__(self, experts_per_layer: Sequence[int]) -> None:
        super().__init__(experts_per_layer)
        self.lookups = 0

    def used(self, keys) -> None:
        self.lookups += 1
        scores = self.score.ravel()
        new = keys[scores[keys] == 0]
        scores[new] = self.lookups


SPEC = PolicySpec("first-in", "first in, first out", "the newest stay", FirstIn)


def add() -> None:
    """Offer it, as a package that brings it would when it is imported."""
    register(SPEC)
