"""A decoder layer for the next token of each of several prompts, computed without MLX.

Weights are read once for all rows; attention is each row's own, over the cache of its prompt. Up to
the choice of experts a layer is one kernel chain. Its experts are looked up and read together, each
computed once for the rows that chose it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import RUNNING, Chain, Workspace, norm_link
from .arrays import F32s
from .attention import AttentionPlan
from .kv_append import SeveralCaches
from .parts import GatedMLP
from .routers import ExpertChoice

NormOf = tuple[F32s, float]
"""A norm's weights and its epsilon."""


class RowsPlan:
    """One layer's chain for so many rows.

    Args:
        count: of the rows.
        mixer, router, shared, memory: as of `LayerPlan`.
        experts: its paged switch; None in a layer without.
        norms: before the attention, and before the second part.
    """

    def __init__(
        self, count: int, mixer: AttentionPlan, experts: Any, norms: tuple[NormOf, NormOf],
        router: ExpertChoice | None, shared: GatedMLP | None, memory: Workspace,
    ) -> None:  # fmt: skip
        self._mixer, self._experts = mixer, experts
        width = len(norms[0][0])
        self._x, self._normed, added = (
            memory.floats(name, count * width).reshape(count, width)
            for name in ("x", "normed", "added")
        )
        rows = list(zip(self._x, self._normed, added, strict=True))
        links = [norm_link(x, *norms[0], normed) for x, normed, _ in rows]
        more, self._tokens = mixer.links_of_rows(self._normed, added, memory)
        links += more
        links += [norm_link(x, *norms[1], normed, new) for x, normed, new in rows]
        nbytes = mixer.nbytes
        self._beside: Chain | None = None
        self._more: F32s | None = None
        self._logit: F32s | None = None
        if router is not None:
            self._ids = np.zeros((count, router.k), np.int64)
            self._weights = np.zeros((count, router.k), np.float32)
            links += router.links(self._normed, self._ids, self._weights, memory)
            nbytes += router.nbytes
        if shared is not None:
            self._more = memory.floats("more", count * width).reshape(count, width)
            beside, self._logit = shared.links(self._normed, self._more, memory)
            self._beside = Chain(beside, count * shared.nbytes)
        self._before = Chain(links, count * nbytes)

    def make_room(self, caches: SeveralCaches) -> bool:
        """Whether all caches have room for a token, in memory that kernels can write to."""
        mixer = self._mixer
        sizes = (mixer.kv_heads, mixer.width), (mixer.kv_heads, mixer.wide)
        return all(
            appender.make_room(cache, *sizes) for _, cache, appender in caches.parts(mixer.appender)
        )

    def reserve(self, caches: SeveralCaches) -> None:
        """Reserve each token's place, after `make_room`."""
        parts = caches.parts(self._mixer.appender)
        for token, (_, cache, appender) in zip(self._tokens, parts, strict=True):
            token.begin(appender, cache)

    def decode(self, x: F32s) -> F32s:
        """x [rows, width] → [rows, width], unchanged until the next layer runs."""
        if x is not self._x:
            self._x[:] = x
        with RUNNING:
            self._before.run()
        if self._experts is not None:
            meanwhile = None if self._beside is None else self._run_beside
            outputs = self._experts.decode(self._normed, self._ids.copy(), self._weights, meanwhile)
            self._x += np.matmul(self._weights[:, None], outputs)[:, 0]
        elif self._beside is not None:
            self._run_beside()
        if self._more is not None:
            gate = 1.0 if self._logit is None else 1 / (1 + np.exp(-self._logit))
            self._x += gate * self._more
        return self._x

    def _run_beside(self) -> None:
        """Compute the shared expert, or a dense layer's MLP."""
        assert self._beside is not None
        with RUNNING:
            self._beside.run()
