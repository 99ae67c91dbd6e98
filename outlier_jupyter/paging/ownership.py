"""Which experts this process computes, and what computes the others.

A process owns all experts, and its results are whole, unless a model's experts are spread over
ranks. Then an `Owner` names the share of each, and the process that has the rest of the model owns
none: what computes them is `Elsewhere`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Owner(Protocol):
    """Says which experts this process computes."""

    def owned(self, layer: int, experts: list[int]) -> list[int]:
        """Those of `experts` that it computes, in the same order."""


class OwnsAll:
    """One process computes all experts."""

    def owned(self, layer: int, experts: list[int]) -> list[int]:
        """As `Owner.owned`: all of them."""
        return experts


OWNS_ALL = OwnsAll()


class Share:
    """A rank computes the experts of its share: for each layer bool [experts]."""

    def __init__(self, mine: Sequence[npt.NDArray[np.bool_]]) -> None:
        self.mine = [each.tolist() for each in mine]

    def owned(self, layer: int, experts: list[int]) -> list[int]:
        """As `Owner.owned`."""
        mine = self.mine[layer]
        return [expert for expert in experts if mine[expert]]


class Elsewhere(Protocol):
    """Other processes compute all experts of a layer."""

    def serve(
        self, layer: int, inputs: Any, ids: npt.NDArray[np.int64], times: tuple[int, int],
        meanwhile: Callable[[], object] | None,
    ) -> tuple[Any, int]:  # fmt: skip
        """A layer's output, and the nanoseconds that they waited for reads."""
