"""The registry of eviction policies: options, help, figures and report iterate over it.

A policy scores experts; of the evictable ones, the lowest score × weight of its layer is evicted
first. It receives the routers' choices and the lookups; it never sees a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import Float64s, Int64s


class Policy:
    """The base of policies: an array of scores, which a policy updates as it learns.

    Args:
        experts_per_layer: the number of experts of each MoE layer.

    Attributes:
        score: float64 [layers, width]; width is the most experts of a layer.
        weight: float64 [layers], the factor of a layer's scores.
        ranks: whether the scores between two lookups tell what is evicted next. False for a policy
            that sets them only when it is asked: views then show how recently experts were used.
    """

    name = ""
    ranks = True

    def __init__(self, experts_per_layer: Sequence[int]) -> None:
        layers = max(len(experts_per_layer), 1)
        self.score: Float64s = np.zeros((layers, max(experts_per_layer, default=1)))
        self.weight: Float64s = np.ones(layers)

    def routed(self, layer: int, experts: npt.NDArray[np.int16]) -> None:
        """Receive the choice `experts` [tokens, k] of `layer`, -1 for none, before its lookup."""

    def used(self, keys: Int64s) -> None:
        """Receive a lookup of `keys`, layer × width + expert, in this order."""


@dataclass(frozen=True)
class PolicySpec:
    """One policy in the registry.

    Attributes:
        name: the name in options.
        label: the name in figures and tables.
        help: what it keeps, in a few words.
        make: makes it for a model with so many experts per layer; None if it needs the future.
        kernel: its number in the compiled replay; without one it is replayed in Python.
        evicts: what its next eviction has in common with those before, in two or three words; ""
            for none. The live view says it beside the expert that is evicted next.
    """

    name: str
    label: str
    help: str
    make: Callable[[Sequence[int]], Policy] | None
    kernel: int | None = None
    evicts: str = ""


LRU, PREDICTIVE, BELADY = 0, 1, 2
"""Policies in the compiled replay."""

POLICIES: dict[str, PolicySpec] = {}
"""By name, in display order."""

DEFAULT = "predictive"
ALIASES = {"default": DEFAULT, "habit": DEFAULT}
"""Other names: `habit` is in files of earlier versions."""


def register(spec: PolicySpec) -> None:
    """Add a policy, or replace the one of the same name."""
    POLICIES[spec.name] = spec


def canonical_name(name: str) -> str:
    """The name that `name` is an alias of, or `name` itself."""
    return ALIASES.get(name, name)


def policy_names() -> tuple[str, ...]:
    """The policies that an engine can use; the default comes first."""
    names = [name for name, spec in POLICIES.items() if spec.make is not None]
    return tuple(sorted(names, key=lambda name: name != DEFAULT))


def policy_help() -> str:
    """The policies that an engine can use, in one sentence."""
    policies = (f"{name} ({POLICIES[name].help})" for name in policy_names())
    return "which expert is evicted when a slot is needed: " + " or ".join(policies)


def make_policy(name: str, experts_per_layer: Sequence[int]) -> Policy:
    """Make the policy `name` for a model whose MoE layers have so many experts each."""
    make = POLICIES[canonical_name(name)].make
    assert make is not None, f"{name} needs the future: it can only be replayed"
    return make(experts_per_layer)
