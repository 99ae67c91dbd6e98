"""The parts of a decoder layer: each is links of a kernel chain, or a module that MLX computes.

A token mixer (attention of some kind, a recurrent state) takes the normed activations and the
layer's cache. What follows the second norm is a router with experts, a shared expert beside them,
or an MLP alone. A part that no kernel knows is a `Foreign`: MLX computes it between two chains.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ..kernels import Chain, Link, Matrix, Stack, Workspace, links_of_rows, swiglu_link
from .arrays import F32s, Ids, as_rows
from .linear import compute

Matrices = dict[int, Matrix]
"""id of each native linear layer → its weights."""


def norm_of(module: Any) -> tuple[F32s, float]:
    """An RMS norm's weights [width] and its epsilon."""
    return as_rows(module.weight)[0].copy(), float(module.eps)


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


class Projection:
    """x · several matrices, side by side, in an order of rows that the next kernel reads.

    Args:
        matrices: of one width.
        order: rows of all matrices, by number; None leaves them as they are.

    Attributes:
        height: rows of all matrices; `nbytes`, their bytes.
    """

    def __init__(self, matrices: Sequence[Matrix], order: Ids | None = None) -> None:
        self._order = order
        self._stacks = self._linked = stacked(matrices)
        if order is not None:
            self._linked = stacked(_in_order(matrices, order))
        self.width = matrices[0].width
        self.height = sum(matrix.height for matrix in matrices)
        self.nbytes = sum(stack.nbytes for stack in self._stacks)

    def __call__(self, x: F32s) -> F32s:
        """x [rows, width] → [rows, height]."""
        found = [compute(x, stack) for stack in self._stacks]
        whole = found[0] if len(found) == 1 else np.concatenate(found, axis=1)
        return whole if self._order is None else np.take(whole, self._order, axis=1)

    def links(self, x: F32s, out: F32s) -> list[Link]:
        """x [width] → out [height], as links of a chain; or several rows, [rows, …] both."""
        links, start = [], 0
        for stack in self._linked:
            part = out[..., start : start + stack.height]
            links += stack.links(x, part) if x.ndim == 1 else links_of_rows(stack, x, part)
            start += stack.height
        return links


def stacked(matrices: Sequence[Matrix]) -> list[Stack]:
    """Matrices that receive the same activations, in few products; their order stays."""
    return [Stack(list(each)) for _, each in groupby(matrices, lambda matrix: matrix.form)]


def _in_order(matrices: Sequence[Matrix], order: Ids) -> list[Matrix]:
    """The rows of `matrices` in this order: a matrix for each run of neighbours, not copied."""
    starts = np.cumsum([0, *(matrix.height for matrix in matrices)])
    breaks = np.flatnonzero((np.diff(order) != 1) | np.isin(order[1:], starts)) + 1
    found = []
    for run in np.split(order, breaks):
        number = int(np.searchsorted(starts, run[0], side="right")) - 1
        first = int(run[0] - starts[number])
        found.append(rows_of(matrices[number], first, first + len(run)))
    return found


def rows_of(matrix: Matrix, first: int, last: int) -> Matrix:
    """Rows `first` to before `last` of a matrix, not copied."""
    weight, scales, biases, bias = (
        None if each is None else each[first:last]
        for each in (matrix.weight, matrix.scales, matrix.biases, matrix.bias)
    )
    assert weight is not None
    return Matrix(matrix.form, last - first, matrix.width, weight, scales, biases, bias)


class GatedMLP:
    """down(silu(gate(x)) · up(x)): a shared expert, or a dense layer's MLP.

    Args:
        module: has gate_proj, up_proj and down_proj.
        gate: a linear layer of one row, whose sigmoid scales the output.

    Raises:
        KeyError: one of its linear layers is not native.
    """

    def __init__(self, module: Any, matrices: Matrices, gate: Any = None) -> None:
        self._both, self._down = (
            Projection([matrices[id(module[name])] for name in names])
            for names in (("gate_proj", "up_proj"), ("down_proj",))
        )
        self._gate = None if gate is None else Projection([matrices[id(gate)]])
        self.nbytes = sum(each.nbytes for each in (self._both, self._down, self._gate) if each)

    def links(self, x: F32s, out: F32s, memory: Workspace) -> tuple[list[Link], F32s | None]:
        """Its links, x [..., width] → out [..., width], and the gate's logits that they write.

        Logits are [..., 1]; there is one row, or several.
        """
        hidden, before = self._down.width, x.shape[:-1]
        both = memory.floats("gate_and_up", x.size // x.shape[-1] * 2 * hidden)
        inner = memory.floats("gated", both.size // 2).reshape(*before, hidden)
        both = both.reshape(*before, 2 * hidden)
        found = self._both.links(x, both)
        for two, one in zip(np.atleast_2d(both), np.atleast_2d(inner), strict=True):
            found.append(swiglu_link(two[:hidden], two[hidden:], one))
        found += self._down.links(inner, out)
        if self._gate is None:
            return found, None
        logit = memory.floats("shared_gate", both.size // (2 * hidden)).reshape(*before, 1)
        return [*found, *self._gate.links(x, logit)], logit
