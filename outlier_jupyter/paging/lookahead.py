"""Predicts the next layer's experts with its own router, from this layer's state.

It calls the next layer's router module with the input of this layer's switch, scaled by the ratio
of the two norms' weights: that is this layer's hidden state under the next layer's norm. A wrong
prediction changes no result, because predictions only start reads sooner; it costs reads, so its
worth is measured. Each layer tracks, by rank (0 is the router's top choice), how many of its
prefetched experts were used, and stops prefetching a rank that is wrong too often.

Not every router can predict like this. So each is first called on its real inputs: only a router
that repeats its own choices for several tokens in a row is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..families import names
from ..options import LoadOptions
from ..residency import ExpertKey
from .fetch import LARGE
from .pager import Pager
from .routing_override import Router, find_router
from .staging import PrefetchOutcome

STAGING_SLOTS = 4
"""Experts prefetched at once, each into a slot beside the cache. From the fourth rank on only half
of the predictions are right, and no more reads end while the next layer's attention computes."""
TRIALS = 8
"""Tokens in a row on which a router must repeat its choice before it predicts."""
LEAST_USED = 0.5
"""The least share of a rank's prefetched experts that are used. A used one saves at most its own
read; an unused one delays the next layer's reads by at most as much."""
LEAST_USEFUL = 0.1
"""The least share of predictions of which an expert is used. A prediction is one router product,
about a tenth of a millisecond, which is wasted where nearly all experts are resident."""
DECAY = 0.9
"""The decay of a share; it remembers about ten predictions."""
FIRST_SHARE = 0.7
"""A rank's share before its first outcome: after four wrong predictions at the beginning it is not
prefetched."""
RETRY_EVERY = 64
"""Once in this many tokens all ranks are prefetched, so that those left out can return."""


def wanted(options: LoadOptions, expert_nbytes: int) -> bool:
    """Whether experts of this size are prefetched."""
    large = options.kernels != "mlx" and expert_nbytes >= LARGE
    return options.lookahead == "on" or (options.lookahead == "auto" and large)


class RankFilter:
    """Decides whether to predict a layer, and which ranks to prefetch, from earlier outcomes.

    A rank is prefetched while the share of its prefetched experts that were used is high enough.

    Attributes:
        useful: the share of predictions of which any expert was used, exponentially decayed.
    """

    def __init__(self) -> None:
        self.useful = 1.0
        self._shares: dict[int, float] = {}
        self._tokens = 0

    def ranks(self, k: int) -> list[int]:
        """The ranks below `k` to prefetch for this token."""
        self._tokens += 1
        if self._tokens % RETRY_EVERY == 0:
            return list(range(k))
        if self.useful < LEAST_USEFUL:
            return []
        return [rank for rank in range(k) if self.share(rank) >= LEAST_USED]

    def record(self, rank: int, used: bool) -> None:
        """Record whether a prefetched expert of this rank was used."""
        self._shares[rank] = DECAY * self.share(rank) + (1 - DECAY) * used

    def record_prediction(self, used: bool) -> None:
        """Record whether any expert of a prediction was used."""
        self.useful = DECAY * self.useful + (1 - DECAY) * used

    def share(self, rank: int) -> float:
        """The decayed share of prefetched experts of this rank that were used."""
        return self._shares.get(rank, FIRST_SHARE)


class Lookahead:
    """The predictions for one layer.

    Args:
        layer: the predicted layer; `pager` serves it.
        router: its router.
        norms: the norms before the experts of the previous layer and of this one, if both are
            known.
        native_only: whether to predict only where experts compute natively.

    Attributes:
        k: how many experts its router chose for the last token of those that it was tried on.
        trials: tokens on which the router was tried; it predicts after `TRIALS` of them.
        usable: whether its router can predict: False once it failed to repeat its own choice.
    """

    def __init__(
        self,
        layer: int,
        pager: Pager,
        router: Router,
        norms: tuple[nn.RMSNorm, nn.RMSNorm] | None,
        native_only: bool,
    ) -> None:
        self.filter = RankFilter()
        self.native_only = native_only
        self._layer, self._pager, self.router = layer, pager, router
        self._norms = norms
        self._ratio: mx.array | None = None
        self._factors = np.ones(1, np.float32)
        self.k = self.trials = 0
        self.usable = True
        self._ranks: dict[ExpertKey, int] | None = None  # of the prediction not yet compared

    def prefetch(self, x: mx.array) -> None:
        """Predict from the previous layer's input `x`, one token, and prefetch likely experts.

        Called when all experts of the previous layer have been read.
        """
        if not self.usable or self.trials < TRIALS:
            return
        wanted_ranks = self.filter.ranks(self.k)
        experts = self._predict(x, self.scaled) if wanted_ranks else None
        if experts is not None:
            # A routing override of `top_k` makes the router choose fewer than `k`.
            keys = [(ExpertKey(self._layer, e), i) for i, e in enumerate(experts.tolist())]
            ranks = {key: rank for key, rank in keys if rank in wanted_ranks}
            self._ranks = {key: ranks[key] for key in self._pager.prefetch(list(ranks))}

    def learn(
        self, x: mx.array, ids: npt.NDArray[np.int64], outcomes: Sequence[PrefetchOutcome]
    ) -> None:
        """Compare the prediction with the router's `ids` [..., k] for one token with input `x`."""
        if self._ranks is not None:
            mine = [(self._ranks[key], used) for key, used, _ in outcomes if key in self._ranks]
            for rank, used in mine:
                self.filter.record(rank, used)
            self.filter.record_prediction(any(used for _, used in mine))
            self._ranks = None
        if self.usable and self.trials < TRIALS:
            self.k = ids.shape[-1]
            repeated = self._predict(x)  # with the router's real input, this must be its choice
            self.usable = repeated is not None and sorted(repeated.tolist()) == sorted(ids.ravel())
            self.trials += 1

    def ranked(self, x: mx.array) -> npt.NDArray[np.int64]:
        """The experts that the router chooses for `x`, one token, the likeliest first.

        Raises:
            ValueError: the choice from groups of experts is made by the block's own code.
        """
        matrix: Any = self.router.matrix
        found = matrix(x)
        if isinstance(found, tuple):
            chosen, weights = found
            ids = np.array(chosen.astype(mx.int32)).reshape(-1).astype(np.int64)
            return ids[np.argsort(-np.array(weights.astype(mx.float32)).reshape(-1), kind="stable")]
        if self.router.grouped:
            raise ValueError("only the block's own code chooses from groups of experts")
        scores = found.astype(mx.float32)
        for module, name in self.router.biases():  # they are added to sigmoids of logits
            scores = mx.sigmoid(scores) + module[name]
        return np.argsort(-np.array(scores).reshape(-1), kind="stable")[: self.k]

    def _predict(
        self, x: mx.array, change: Callable[[mx.array], mx.array] | None = None
    ) -> npt.NDArray[np.int64] | None:
        """`ranked`; None, and no more predictions, if the router does not have the known form."""
        try:
            return self.ranked(change(x) if change else x)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            self.usable = False
            return None

    def scaled(self, x: mx.array) -> mx.array:
        """`x` under this layer's norm in place of the previous layer's."""
        if self._norms is None:
            return x
        if self._ratio is None:
            before, here = (norm.weight.astype(mx.float32) for norm in self._norms)
            self._ratio = mx.where(mx.abs(before) > 1e-6, here / before, 1.0).astype(x.dtype)
            if x.dtype == mx.float32:
                self._factors = np.array(self._ratio)
        if x.dtype == mx.float32:  # it lies in memory: an evaluation costs more than the product
            return mx.array(np.array(x) * self._factors)
        return mx.multiply(x, self._ratio)  # not as an operator: the tap watches those of `x`


def find_lookahead(
    model: nn.Module,
    layer: int,
    paths: Sequence[str],
    experts: int,
    pager: Pager,
    options: LoadOptions,
) -> Lookahead | None:
    """The lookahead for MoE layer `layer` of the switches at `paths`; None without a router.

    The paged switches must be in place.
    """
    router = find_router(model, paths[layer], experts)
    if router is None or router.width != experts:
        return None
    before, here = _norm(model, paths[layer - 1]), _norm(model, paths[layer])
    norms = (before, here) if before is not None and here is not None else None
    return Lookahead(layer, pager, router, norms, options.lookahead == "auto")


def _norm(model: nn.Module, path: str) -> nn.RMSNorm | None:
    """The norm before the block of the switch at `path`."""
    parent = module_at(model, ".".join(path.split(".")[:-2]))
    found = (parent.get(name) for name in names("norms")) if isinstance(parent, nn.Module) else ()
    return next((norm for norm in found if type(norm) is nn.RMSNorm), None)


def module_at(model: Any, path: str) -> Any:
    """The module or list at `path`; the model itself at an empty one."""
    for step in path.split(".") if path else ():
        model = model[int(step)] if isinstance(model, list) else model[step]
    return model
