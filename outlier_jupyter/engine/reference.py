"""The unchanged model, run on the same tokens as a run that changes it (`measure_loss`).

It has its own KV cache, never quantised or bounded, and the routers' own choices; it shares the
expert slots. So it measures what another routing or a poorer KV cache does to each token's
distribution: the KL divergence, and whether both take the same token. Its reads and evictions are
reported, because they change what is resident; its routing is not.
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
        prefix: the ids that the run's KV cache holds before the run reads anything.
        chunk: prompt ids per forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        routing: RoutingOptions,
        pagers: Sequence[Pager],
        prefix: list[int],
        chunk: int | None,
    ) -> None:
        self._model = model
        self._routing = routing
        self._pagers = pagers
        self._kv = make_prompt_cache(model)
        self._prefix = prefix
        self._chunk = chunk or len(prefix) or 1
        self._over = False

    def follow(self, tokens: list[int], logits: mx.array | None) -> Compared | None:
        """Read the tokens that the run has read.

        Args:
            tokens: of the run's call.
            logits: the run's logits after the last token [1, vocabulary], evaluated; None in a
                prefill chunk after which nothing is sampled.

        Returns:
            The comparison of the distributions after the last token; None without `logits`, or if
            the run was stopped.
        """
        if self._over:
            return None
        try:
            with self._routing.exact(), _unrouted(self._pagers):
                prefix, self._prefix = self._prefix, []
                for first in range(0, len(prefix), self._chunk):
                    self._read(prefix[first : first + self._chunk])
                exact = self._read(tokens)
                return None if logits is None else compared(exact, logits)
        except Stopped:  # the run raises it itself
            self._over = True
            return None

    def _read(self, tokens: list[int]) -> mx.array:
        logits: mx.array = self._model(mx.array(tokens)[None], cache=self._kv)
        mx.eval([layer.state for layer in self._kv])
        return logits[:, -1, :]


def compared(exact: mx.array, other: mx.array) -> Compared:
    """KL(exact ‖ other) of logits [1, vocabulary] in nats, and whether the argmaxes agree."""
    divergence, same = divergences(exact, other)
    nats: Any = divergence.item()
    return Compared(float(nats), bool(same.item()))


def divergences(exact: mx.array, other: mx.array) -> tuple[mx.array, mx.array]:
    """KL(exact ‖ other) of logits [rows, vocabulary] in nats, and whether the argmaxes agree."""
    p, q = (log_probabilities(logits) for logits in (exact, other))
    kl = (mx.exp(p) * (p - q)).sum(axis=-1)
    return mx.maximum(kl, 0.0), exact.argmax(axis=-1) == other.argmax(axis=-1)


def log_probabilities(logits: mx.array) -> mx.array:
    """Logits [rows, vocabulary] as log-probabilities, float32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


class _unrouted:  # noqa: N801, a context manager
    """Within the block the pagers report only reads and evictions."""

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
    def forward(event: Event) -> None:
        if isinstance(event, PagedIn | Evicted):
            sink(event)

    return forward
