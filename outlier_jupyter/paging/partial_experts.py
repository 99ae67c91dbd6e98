"""Computes a layer's experts group by group into one output, with MLX's kernels.

A row's arithmetic does not depend on the rows beside it: the kernel is the same, and it gets
`sorted_indices` exactly when mlx-lm would have sorted all rows of the call. Native modules have
their own implementation, with the same two methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx_lm.models.switch_layers import SwitchGLU

SORT_FROM = 64
"""From this many (token, expert) pairs on, mlx-lm sorts them by expert."""

Numbers = npt.NDArray[np.integer[Any]]


class PartialExperts(Protocol):
    """Takes the (token, expert) pairs of a call in any order, each once."""

    def add(self, mine: Numbers, slots: Numbers) -> None:
        """Compute the pairs numbered `mine`, whose experts are in `slots`; both [pairs]."""

    def output(self) -> mx.array:
        """All pairs' outputs [..., k, width]; zeros where none was added."""


class LazyPartialExperts:
    """Over mlx-lm's switch `inner`, for x [..., width] and ids of shape [..., k].

    Args:
        reading: called with each array that is computed from the bank.
    """

    def __init__(
        self,
        inner: Any,
        x: mx.array,
        shape: tuple[int, ...],
        reading: Callable[[mx.array], object],
    ) -> None:
        self._inner, self._shape, self._reading = inner, shape, reading
        self._rows = x.reshape(-1, 1, x.shape[-1])
        self._sorted = int(np.prod(shape)) >= SORT_FROM
        self._outputs: list[mx.array] = []
        self._order: list[Numbers] = []

    def add(self, mine: Numbers, slots: Numbers) -> None:
        """As `PartialExperts.add`; nothing is evaluated."""
        order = np.argsort(slots, kind="stable")
        mine, slots = mine[order], slots[order]
        rows = self._rows[mx.array((mine // self._shape[-1]).astype(np.uint32))]
        output = self._compute(rows, mx.array(slots.astype(np.uint32)))
        self._reading(output)
        self._outputs.append(output)
        self._order.append(mine)

    def output(self) -> mx.array:
        """As `PartialExperts.output`."""
        pairs = np.arange(np.prod(self._shape))
        if (missing := np.setdiff1d(pairs, np.concatenate([*self._order, pairs[:0]]))).size:
            self._outputs.append(mx.zeros((missing.size, *self._rows.shape[1:]), self._rows.dtype))
            self._order.append(missing)
        back = np.argsort(np.concatenate(self._order)).astype(np.uint32)
        output = mx.concatenate(self._outputs)[mx.array(back)]
        self._reading(output)
        return output.reshape(*self._shape, output.shape[-1])

    def _compute(self, rows: mx.array, slots: mx.array) -> mx.array:
        """The original's arithmetic on rows [n, 1, width] of one expert each, in slot order."""
        inner, ordered = self._inner, self._sorted
        output: mx.array
        if isinstance(inner, SwitchGLU):
            up = inner.up_proj(rows, slots, sorted_indices=ordered)
            gate = inner.gate_proj(rows, slots, sorted_indices=ordered)
            hidden = inner.activation(up, gate)
            output = inner.down_proj(hidden, slots, sorted_indices=ordered)
        else:
            hidden = inner.activation(inner.fc1(rows, slots, sorted_indices=ordered))
            output = inner.fc2(hidden, slots, sorted_indices=ordered)
        return output
