"""The parts of a decoder layer: each is links of a kernel chain, or a module that MLX computes.

A token mixer (attention of some kind, a recurrent state) takes the normed activations and the
layer's cache. What follows the second norm is a router with experts, a shared expert beside them,
or an MLP alone. A part that no kernel knows is a `Foreign`: MLX computes it between two chains.
"""

from __future__ import annotations

from typing import Any, Protocol

import mlx.core as mx

from ..kernels import Chain, Link, Matrix, Stack, Workspace, swiglu_link
from .arrays import F32s, as_rows

Matrices = dict[int, Matrix]
"""id of each native linear layer → its weights."""


class Mixer(Protocol):
    """What mixes a token with those before it: x [width] → [width].

    Attributes:
        nbytes: of the weights that a token reads.
    """

    nbytes: int

    def links(self, x: F32s, out: F32s, memory: Workspace) -> list[Link]:
        """The mixer as links of a chain, for tokens that `begin` has announced."""

    def takes(self, cache: Any) -> bool:
        """Whether `decode` computes with `cache` what mlx-lm does."""

    def ready(self, cache: Any) -> bool:
        """Whether the links alone can compute the next token: `cache` has room and is known."""

    def begin(self, chain: Chain, first: int, cache: Any) -> None:
        """Reserve the token's place in a `ready` cache; the links begin at number `first`."""

    def decode(self, x: F32s, cache: Any) -> F32s:
        """One token of any cache that it `takes`: x [1, width] → [1, width]."""


class Foreign:
    """A mixer that MLX computes."""

    nbytes = 0

    def __init__(self, module: Any) -> None:
        self._module = module

    def links(self, x: F32s, out: F32s, memory: Workspace) -> list[Link]:
        """None: its token is computed by `decode`."""
        return []

    def takes(self, cache: Any) -> bool:
        """Every cache is mlx-lm's."""
        return True

    def ready(self, cache: Any) -> bool:
        """Never."""
        return False

    def begin(self, chain: Chain, first: int, cache: Any) -> None:
        """Not called, as it is never ready."""
        raise NotImplementedError

    def decode(self, x: F32s, cache: Any) -> F32s:
        """As `Mixer.decode`."""
        return as_rows(self._module(mx.array(x[None]), None, cache))


class GatedMLP:
    """down(silu(gate(x)) · up(x)): a shared expert, or a dense layer's MLP.

    Args:
        module: has gate_proj, up_proj and down_proj.
        gate: a linear layer of one row, whose sigmoid scales the output.

    Raises:
        KeyError: one of its linear layers is not native.
    """

    def __init__(self, module: Any, matrices: Matrices, gate: Any = None) -> None:
        both = [matrices[id(module[name])] for name in ("gate_proj", "up_proj")]
        self._stacks = stacked(both)
        self._down = Stack([matrices[id(module.down_proj)]])
        self._gate = None if gate is None else Stack([matrices[id(gate)]])
        self.nbytes = sum(s.nbytes for s in (*self._stacks, self._down, self._gate) if s)

    def links(self, x: F32s, out: F32s, memory: Workspace) -> tuple[list[Link], F32s | None]:
        """Its links, x [width] → out [width], and the gate's logit [1] that they write."""
        hidden = self._down.width
        both = memory.floats("gate_and_up", 2 * hidden)
        inner = memory.floats("inner", hidden)
        found = [
            *links_of_stacks(self._stacks, x, both),
            swiglu_link(both[:hidden], both[hidden:], inner),
            *self._down.links(inner, out),
        ]
        if self._gate is None:
            return found, None
        logit = memory.floats("shared_gate", 1)
        return [*found, *self._gate.links(x, logit)], logit


def stacked(matrices: list[Matrix]) -> list[Stack]:
    """Matrices that receive the same activations, as few products; their order stays."""
    found: list[list[Matrix]] = []
    for matrix in matrices:
        if found and found[-1][0].form == matrix.form:
            found[-1].append(matrix)
        else:
            found.append([matrix])
    return [Stack(each) for each in found]


def links_of_stacks(stacks: list[Stack], x: F32s, out: F32s) -> list[Link]:
    """x [width] → out [height of all], side by side."""
    links, start = [], 0
    for stack in stacks:
        links += stack.links(x, out[start : start + stack.height])
        start += stack.height
    return links
