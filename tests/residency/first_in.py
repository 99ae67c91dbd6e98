"""A cache policy from outside the package: first in, first out. This file is all it takes."""

from __future__ import annotations

from collections.abc import Sequence

from outlier_jupyter.residency.policies import Policy, PolicySpec, register


class FirstIn(Policy):
    """The expert whose first lookup is oldest is evicted first."""

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
    """Register the policy, as an external package would when imported."""
    register(SPEC)
