"""The model as it is, run beside a run that changes it, on the same tokens.

It has a KV cache of its own, never quantised or bounded, and the routers' own choices; experts
come from the same slots. So what a run with other routing, or a poorer KV cache, does to each
token's distribution is known at once: the divergence from the exact one, and whether both would
have taken the same token. What is read for it is told to whoever shows what sits in RAM, and its
routing is nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from ..events import Compared, Event, Evicted, PagedIn, Sink
from ..paging import Pager, Stopped
from .routing_options import RoutingOptions


class Reference:
    """Follows one run.

    Args:
        behind: the ids that the run's KV cache holds before it reads its first.
        chunk: ids of a prompt per forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        routing: RoutingOptions,
        pagers: Sequence[Pager],
        behind: list[int],
        chunk: int | None,
    ) -> None:
        self._model = model
        self._routing = routing
        self._pagers = pagers
        self._kv = make_prompt_cache(model)
        self._behind = behind
        self._chunk = chunk or len(behind) or 1
        self._over = False

    def follow(self, tokens: list[int], logits: mx.array | None) -> Compared | None:
        """Read what the run has read.

        Args:
            tokens: of the run's call.
            logits: the run's after the last of them [1, vocabulary], evaluated; None in a chunk
                of the prompt after which nothing is sampled.

        Returns:
            How the distributions after the last token compare; None without `logits`, or when
            the run was asked to stop.
        """
        if self._over:
            return None
        try:
            with self._routing.exact(), _unrouted(self._pagers):
                behind, self._behind = self._behind, []
                for first in range(0, len(behind), self._chunk):
                    self._read(behind[first : first + self._chunk])
                exact = self._read(tokens)
                return None if logits is None else compared(exact, logits)
        except Stopped:  # the run hears of it by itself
            self._over = True
            return None

    def _read(self, tokens: list[int]) -> mx.array:
        logits: mx.array = self._model(mx.array(tokens)[None], cache=self._kv)
        mx.eval([layer.state for layer in self._kv])
        return logits[:, -1, :]


def compared(exact: mx.array, other: mx.array) -> Compared:
    """How far logits [1, vocabulary] are from exact ones, in nats, and whether their tops agree."""
    divergence, same = divergences(exact, other)
    nats: Any = divergence.item()
    return Compared(float(nats), bool(same.item()))


def divergences(exact: mx.array, other: mx.array) -> tuple[mx.array, mx.array]:
    """KL(exact ‖ other) of logits [rows, vocabulary], in nats, and whether the tops agree."""
    p, q = (log_probabilities(logits) for logits in (exact, other))
    kl = (mx.exp(p) * (p - q)).sum(axis=-1)
    return mx.maximum(kl, 0.0), exact.argmax(axis=-1) == other.argmax(axis=-1)


def log_probabilities(logits: mx.array) -> mx.array:
    """Logits [rows, vocabulary] as log-probabilities, float32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


class _unrouted:  # noqa: N801, a context manager
    """Within the block, only what came into RAM and left it is told."""

    def __init__(self, pagers: Sequence[Pager]) -> None:
        self._pagers = pagers
        self._sinks = [pager.sink for pager in pagers]

    def __enter__(self) -> None:
        for pager, sink in zip(self._pagers, self._sinks, strict=True):
            pager.sink = _moves_only(sink)

    def __exit__(self, *raised: object) -> None:
        for pager, sink in zip(self._pagers, self._sinks, strict=True):
            pager.sink = sink


def _moves_only(sink: Sink) -> Sink:
    def told(event: Event) -> None:
        if isinstance(event, PagedIn | Evicted):
            sink(event)

    return told
