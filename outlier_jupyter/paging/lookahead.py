"""Guesses what the next layer will ask for, by its own router and this layer's state.

The router is the model's own module, called once more: with the input of this layer's switch,
scaled by the ratio of the two norms' weights, which is this layer's state under the next layer's
norm. A guess moves reads to an earlier moment and nothing else, so it may be wrong; whether it is
worth its reads is measured. Each layer counts, by rank, which of its early reads were asked for,
and a rank that is wrong too often is not read early any more.

Not every router can be asked so. A layer's is held against what it really chose, given the input it
really had: only one that answered without a fault several tokens in a row is ever asked ahead.
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
"""Slots beside the cache: as many experts are read ahead at once. From the fourth rank on only half
of the guesses are right, and no more reads end within what the next layer computes first."""
PROOFS = 8
"""Tokens in a row on which a router must choose as it did before it is asked ahead."""
USED = 0.5
"""The share of early reads of a rank that must be asked for. One that is used saves at most its own
time; one that is not delays the next layer's reads by as much at most."""
WORTH = 0.1
"""The share of guesses from which a read must be used. A guess is a router's product, about a tenth
of a millisecond; where nearly all is held, it is made for nothing."""
FORGET = 0.9
"""What a share keeps of itself each time; it remembers about ten."""
FIRST = 0.7
"""The share of a rank that was never read: four wrong guesses at the beginning close it."""
AGAIN = 64
"""Every so many tokens what is not done any more is tried."""


def wanted(asked: LoadOptions, expert_nbytes: int) -> bool:
    """Whether experts of this size are to be read ahead."""
    large = asked.kernels != "mlx" and expert_nbytes >= LARGE
    return asked.lookahead == "on" or (asked.lookahead == "auto" and large)


class Gate:
    """Whether one layer is worth a guess, and which ranks a read: by what came of earlier ones.

    Attributes:
        worth: the decayed share of guesses from which a read was used.
    """

    def __init__(self) -> None:
        self.worth = 1.0
        self._shares: dict[int, float] = {}
        self._tokens = 0

    def open(self, k: int) -> list[int]:
        """The ranks below `k` to be read early for this token."""
        self._tokens += 1
        if self._tokens % AGAIN == 0:
            return list(range(k))
        if self.worth < WORTH:
            return []
        return [rank for rank in range(k) if self.share(rank) >= USED]

    def learn(self, rank: int, used: bool) -> None:
        """A read of this rank was asked for, or was not."""
        self._shares[rank] = FORGET * self.share(rank) + (1 - FORGET) * used

    def guessed(self, used: bool) -> None:
        """A guess was made, and of its reads one was asked for or none."""
        self.worth = FORGET * self.worth + (1 - FORGET) * used

    def share(self, rank: int) -> float:
        """The decayed share of reads of this rank that were asked for."""
        return self._shares.get(rank, FIRST)


class Lookahead:
    """The guesses for one layer.

    Args:
        layer: the one guessed for; `pager` serves it.
        router: its router.
        norms: of the layer before and of this one, where both are known.
        native_only: whether to guess only where experts compute natively.
    """

    def __init__(
        self,
        layer: int,
        pager: Pager,
        router: Router,
        norms: tuple[nn.RMSNorm, nn.RMSNorm] | None,
        native_only: bool,
    ) -> None:
        self.gate = Gate()
        self.native_only = native_only
        self._layer, self._pager, self._router = layer, pager, router
        self._norms = norms
        self._ratio: mx.array | None = None
        self._factors = np.ones(1, np.float32)
        self._k = self._proofs = 0
        self._suits = True
        self._ranks: dict[ExpertKey, int] | None = None  # of what a guess had read, if one was made

    @property
    def suits(self) -> bool:
        """Whether its router may be asked: False once it answered otherwise than it chose."""
        return self._suits

    def prefetch(self, x: mx.array) -> None:
        """The layer before is given `x`, one token: begin the reads that look worth it.

        Called when all that the layer before asked for has been read.
        """
        if not self._suits or self._proofs < PROOFS:
            return
        ranks_open = self.gate.open(self._k)
        named = self._asked(x, self._scaled) if ranks_open else None
        if named is not None:
            # Fewer are named while `top_k` is changed.
            keys = [(ExpertKey(self._layer, e), i) for i, e in enumerate(named.tolist())]
            ranks = {key: rank for key, rank in keys if rank in ranks_open}
            self._ranks = {key: ranks[key] for key in self._pager.prefetch(list(ranks))}

    def learn(
        self, x: mx.array, ids: npt.NDArray[np.int64], outcomes: Sequence[PrefetchOutcome]
    ) -> None:
        """The layer's router chose `ids`, [..., k], of one token, and its switch is given `x`."""
        if self._ranks is not None:
            mine = [(self._ranks[key], used) for key, used, _ in outcomes if key in self._ranks]
            for rank, used in mine:
                self.gate.learn(rank, used)
            self.gate.guessed(any(used for _, used in mine))
            self._ranks = None
        if self._suits and self._proofs < PROOFS:
            self._k = ids.shape[-1]
            named = self._asked(x)  # the control: given what it was given, is that its choice?
            self._suits = named is not None and sorted(named.tolist()) == sorted(ids.ravel())
            self._proofs += 1

    def ranked(self, x: mx.array) -> npt.NDArray[np.int64]:
        """The experts that the router chooses for `x`, one token, the likeliest first."""
        matrix: Any = self._router.matrix
        found = matrix(x)
        if isinstance(found, tuple):
            chosen, weights = found
            ids = np.array(chosen.astype(mx.int32)).reshape(-1).astype(np.int64)
            return ids[np.argsort(-np.array(weights.astype(mx.float32)).reshape(-1), kind="stable")]
        if self._router.grouped:
            raise ValueError("who is chosen from logits in groups is the block's own knowledge")
        scores = found.astype(mx.float32)
        for module, name in self._router.biases():  # they are added to sigmoids of logits
            scores = mx.sigmoid(scores) + module[name]
        return np.argsort(-np.array(scores).reshape(-1), kind="stable")[: self._k]

    def _asked(
        self, x: mx.array, change: Callable[[mx.array], mx.array] | None = None
    ) -> npt.NDArray[np.int64] | None:
        """`ranked`, or None where it takes something else than that or gives something else."""
        try:
            return self.ranked(change(x) if change else x)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            self._suits = False
            return None

    def _scaled(self, x: mx.array) -> mx.array:
        """`x` as it would be under this layer's norm."""
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
    asked: LoadOptions,
) -> Lookahead | None:
    """The guesses for MoE layer `layer` of the switches at `paths`; None where they cannot be.

    Run when the paged switches are in place.
    """
    router = find_router(model, paths[layer], experts)
    if router is None or router.width != experts:
        return None
    before, here = _norm(model, paths[layer - 1]), _norm(model, paths[layer])
    norms = (before, here) if before is not None and here is not None else None
    return Lookahead(layer, pager, router, norms, asked.lookahead == "auto")


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
