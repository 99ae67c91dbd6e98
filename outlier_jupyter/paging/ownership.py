"""Which experts this process computes, and where its results and those of others become one.

It owns all experts today, and its results are whole. With a model's experts spread over processes,
another `Owner` names the share of this one, and another `Combine` adds what the others computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

Combine: TypeAlias = Callable[[Any], Any]
"""From the outputs of the owned experts, [..., k, width] with zeros elsewhere, to those of all."""


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


def as_it_is(output: Any) -> Any:
    """The `Combine` of a process that owns all experts."""
    return output
