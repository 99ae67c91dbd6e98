"""What the model found likely: a token's log-probability and rank, the entropy, the likeliest ids.

All of it comes from log-probabilities that are evaluated together with the token they lead to. On a
CPU one compiled pass reads them then. On a GPU the results themselves are part of that evaluation,
as copying a whole row would take longer.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..events import prediction

GROUP = 256
"""Ids per group: the n likeliest are in the n groups with the largest maxima, and two short sorts
find them. MLX would sort the whole vocabulary."""
LEAST = -87.0
"""Smaller log-probabilities count as this in the entropy: 0 times infinity is 0."""

Rows = npt.NDArray[np.int32]
"""`events.Predicted.numbers`: [rows, 3 + 2 n]."""
FLOAT32 = np.dtype(np.float32)


def log_probabilities(logits: mx.array) -> mx.array:
    """Logits [1, vocabulary] as mlx-lm's `generate_step` makes log-probabilities of them."""
    return logits - mx.logsumexp(logits, keepdims=True)


class Predictor:
    """Measures what a distribution says of the token after it.

    Args:
        alternatives: how many of the likeliest tokens to list.
        compiled: use the compiled pass; by default where MLX computes on a CPU.
    """

    def __init__(self, alternatives: int, compiled: bool | None = None) -> None:
        self._n = alternatives
        self._compiled = mx.default_device() == mx.cpu if compiled is None else compiled
        self._pass: Any = None
        if self._compiled:
            from ..cpu.kernels.likeliest import Likeliest  # loads LLVM

            self._pass = Likeliest(alternatives)

    def lazy(self, logprobs: mx.array, tokens: mx.array) -> list[mx.array]:
        """What to evaluate for `rows`.

        Args:
            logprobs: [rows, vocabulary], of any float type.
            tokens: [rows], the ids to measure.
        """
        if logprobs.dtype != mx.float32:
            logprobs = logprobs.astype(mx.float32)
        if self._compiled:
            return [logprobs, tokens]
        return self._results(logprobs, tokens.astype(mx.int32)[:, None])

    def row(self, evaluated: list[mx.array], token: int) -> Rows:
        """As `rows` for one token whose id is known."""
        if not self._compiled:
            return self.rows(evaluated)
        # mx.array has the buffer protocol, but its type stub does not say so.
        found: Rows = self._pass(np.frombuffer(evaluated[0], FLOAT32), token)  # type: ignore[call-overload]
        return found

    def rows(self, evaluated: list[mx.array]) -> Rows:
        """The rows of `Predicted`, from the evaluated arrays of `lazy`."""
        if not self._compiled:
            return self._row_of(*map(np.array, evaluated))
        logprobs, tokens = evaluated
        ids: Any = tokens.tolist()
        rows = np.frombuffer(logprobs, FLOAT32).reshape(len(ids), -1)  # type: ignore[call-overload]  # as above
        return np.concatenate([self._pass(*each) for each in zip(rows, ids, strict=True)])

    def _results(self, logprobs: mx.array, tokens: mx.array) -> list[mx.array]:
        """logprob, rank, entropy [rows]; alternatives and theirs [rows, n]."""
        chosen = mx.take_along_axis(logprobs, tokens, axis=-1)
        ids = mx.arange(logprobs.shape[-1])
        before = (logprobs > chosen) | ((logprobs == chosen) & (ids < tokens))
        entropy = -(mx.exp(logprobs) * mx.maximum(logprobs, LEAST)).sum(axis=-1)
        found = [chosen[:, 0], before.sum(axis=-1) + 1, entropy]
        return [*found, *(_largest(logprobs, self._n) if self._n else ())]

    def _row_of(self, *columns: npt.NDArray[Any]) -> Rows:
        logprob, rank, entropy, *alternatives = columns
        out = np.zeros(len(rank), prediction(self._n))
        out["logprob"], out["rank"], out["entropy"] = logprob, rank, np.maximum(entropy, 0)
        out["alternatives"], out["alternative_logprobs"] = -1, np.nan
        if alternatives:
            ids, numbers = alternatives
            wide, known = ids.shape[1], numbers > -np.inf
            out["alternatives"][:, :wide] = np.where(known, ids, -1)
            out["alternative_logprobs"][:, :wide] = np.where(known, numbers, np.nan)
        return out.view(np.int32).reshape(len(out), -1)


def _largest(x: mx.array, n: int) -> tuple[mx.array, mx.array]:
    """The ids of the n largest of each row, largest first, and their values; fewer if x has less.

    Of equal values the smaller id usually comes first.
    """
    rows, width = x.shape
    n, groups = min(n, width), -(-width // GROUP)
    if groups > n:
        x = mx.pad(x, [(0, 0), (0, groups * GROUP - width)], constant_values=-mx.inf)
        x = x.reshape(rows, groups, GROUP)
        best = mx.sort(mx.argsort(-x.max(axis=-1), axis=-1)[:, :n], axis=-1)
        values = mx.take_along_axis(x, best[:, :, None], axis=1).reshape(rows, -1)
        ids = (best[:, :, None] * GROUP + mx.arange(GROUP)).reshape(rows, -1)
    else:
        values, ids = x, mx.broadcast_to(mx.arange(width), x.shape)
    order = mx.argsort(-values, axis=-1)[:, :n]
    return mx.take_along_axis(ids, order, axis=-1), mx.take_along_axis(values, order, axis=-1)
