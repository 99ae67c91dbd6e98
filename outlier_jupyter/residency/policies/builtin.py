"""The policies of the package. Making one loads its compiled code."""

from __future__ import annotations

from collections.abc import Sequence

from .registry import BELADY, DEFAULT, LRU, PREDICTIVE, Policy, PolicySpec, register


def _lru(experts_per_layer: Sequence[int]) -> Policy:
    from . import lru

    return lru.LRU(experts_per_layer)


def _predictive(experts_per_layer: Sequence[int]) -> Policy:
    from .predictive import Predictive

    return Predictive(experts_per_layer)


register(
    PolicySpec(
        "lru",
        "least recently used",
        "the most recently used stay",
        _lru,
        LRU,
        evicts="unused longest",
    )
)
register(
    PolicySpec(
        DEFAULT,
        "predictive, the default",
        "experts used often, used after similar routing, or due soon stay",
        _predictive,
        PREDICTIVE,
        evicts="predicted to be used last",
    )
)
register(PolicySpec("belady", "best possible", "knows the future: the bound of all", None, BELADY))
