"""The policies there are, by name: what options, help, figures, slider and report iterate over.

A policy scores experts, and of those that may go the least score × weight of its layer is evicted
first. It hears what the routers choose and what is looked up; it never sees a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import Float64s, Int64s


class Policy:
    """What every policy has: an array of scores, which it renews as it learns.

    Args:
        experts_per_layer: how many experts each MoE layer has.

    Attributes:
        score: float64 [layers, width], width being the most experts of a layer.
        weight: float64 [layers], by which the scores of a layer are multiplied.
    """

    name = ""

    def __init__(self, experts_per_layer: Sequence[int]) -> None:
        layers = max(len(experts_per_layer), 1)
        self.score: Float64s = np.zeros((layers, max(experts_per_layer, default=1)))
        self.weight: Float64s = np.ones(layers)

    def routed(self, layer: int, experts: npt.NDArray[np.int16]) -> None:
        """The router of `layer` chose `experts` [tokens, k]; -1 for none. They are used next."""

    def used(self, keys: Int64s) -> None:
        """`keys`, layer × width + expert, are looked up together, in this order."""


@dataclass(frozen=True)
class PolicySpec:
    """One policy, as everything that offers policies knows it.

    Attributes:
        name: as users write it.
        label: as figures and tables write it.
        help: what it keeps, in a few words.
        make: makes one for a model with so many experts per layer; None where it needs the future.
        kernel: its number in the compiled replay; without one it is replayed in Python.
    """

    name: str
    label: str
    help: str
    make: Callable[[Sequence[int]], Policy] | None
    kernel: int | None = None


LRU, PREDICTIVE, BELADY = 0, 1, 2
"""The policies that the compiled replay knows."""

POLICIES: dict[str, PolicySpec] = {}
"""By name, in the order in which they are shown."""

DEFAULT = "predictive"
ALIASES = {"default": DEFAULT, "habit": DEFAULT}
"""Other names: `habit` is what files of earlier versions say."""


def register(spec: PolicySpec) -> None:
    """Offer one more policy, or another under a name there is."""
    POLICIES[spec.name] = spec


def default_or(name: str) -> str:
    """The policy that `name` stands for, whether there is one or not."""
    return ALIASES.get(name, name)


def offered() -> tuple[str, ...]:
    """What an engine can be given; the default comes first."""
    names = [name for name, spec in POLICIES.items() if spec.make is not None]
    return tuple(sorted(names, key=lambda name: name != DEFAULT))


def explained() -> str:
    """The policies that an engine can be given, in one sentence."""
    words = (f"{name} ({POLICIES[name].help})" for name in offered())
    return "which expert is evicted when a slot is needed: " + " or ".join(words)


def make_policy(name: str, experts_per_layer: Sequence[int]) -> Policy:
    """The policy of this name, for a model whose MoE layers have so many experts each."""
    make = POLICIES[default_or(name)].make
    assert make is not None, f"{name} needs the future: it can only be replayed"
    return make(experts_per_layer)
