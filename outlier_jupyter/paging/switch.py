"""The module that stands in for mlx-lm's SwitchGLU or SwitchMLP.

It learns the router's ids (the one synchronisation per MoE layer), has the pager make those
experts resident, and lets the original module compute over the bank with slot ids in place of
expert ids. Activation, expert biases and the sorting of long prompts are therefore mlx-lm's own.

Once all experts of a layer are held for good, there is nothing to learn: slot ids are looked up on
the device, nothing is evaluated, and the tap reads the ids when the call is over.

What computes natively does so while misses are read: what is held first, then what has landed.
MLX's graphs are computed when all is there.

A prompt may need more distinct experts than there are slots for it. Then the tokens are taken
expert by expert, in as many passes as it needs; the arithmetic of a row does not change with it.
What a layer of a prompt used most stays, up to its share of the slots, so that decode starts warm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from ..events import Routed, Served
from ..residency import ExpertKey
from .early import Beside
from .lookahead import Ahead
from .pager import Pager
from .parts import LazyParts, Parts
from .steering import Steered
from .weights import RouterTap

PROJECTIONS = (SwitchLinear, QuantizedSwitchLinear)


def expert_tensors(switch: nn.Module) -> dict[str, mx.array]:
    """A switch's tensors that hold a row per expert, [experts, …], by name below the switch."""
    tensors: dict[str, mx.array] = {}
    for name, child in switch.children().items():
        if isinstance(child, PROJECTIONS):
            found: Any = tree_flatten(child.parameters(), prefix=f".{name}", destination={})
            tensors |= found
    return tensors


class PagedSwitch(nn.Module):
    """Called as the switch it replaces: x [..., width], indices [..., k] → [..., k, width]."""

    def __init__(self, inner: nn.Module, layer: int, experts: int, pager: Pager, tap: RouterTap):
        super().__init__()  # type: ignore[no-untyped-call]  # mlx.nn's has no types
        # Kept outside the module's own dictionary, or the bank, which all layers share, would be
        # counted once per layer by whatever walks the model (MLX's wired limit, a save).
        object.__setattr__(self, "_inner", inner)
        self._inner: Any
        self._layer = layer
        self._experts = experts
        self._pager = pager
        self._tap = tap
        self._steered: Steered | None = None  # set by Steering while the routing is changed
        self._next: Ahead | None = None
        self._foreseen: Ahead | None = None
        self._experts_ns = 0
        self._beside: Beside | None = None
        # What else has weights (muse_spark hangs a norm on its switch) stays part of the model.
        for name, child in inner.children().items():
            if not isinstance(child, PROJECTIONS) and tree_flatten(child):
                self[name] = child

    def help(self, beside: Beside | None) -> None:
        """Have a shared expert computed while reads are under way."""
        self._beside = beside

    def read_ahead(self, following: Ahead | None) -> None:
        """Have the next layer's experts foreseen from this one's input."""
        self._next = following

    def learn_from(self, foreseen: Ahead | None) -> None:
        """Have what was foreseen for this layer learn from what it then asks for."""
        self._foreseen = foreseen

    def __getattr__(self, name: str) -> object:
        """What a model hangs on its switch, beside the projections, stays reachable."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._inner, name)

    def __call__(
        self, x: mx.array, indices: mx.array, meanwhile: Callable[[], object] | None = None
    ) -> mx.array:
        """As the switch; `meanwhile` is called once, while reads are under way if there are any.

        Without it, and where it computes natively, it has its block's shared expert computed then.
        """
        pager = self._pager
        pager.enter()
        begin, told, self._experts_ns = pager.clock(), pager.told_ns, 0
        if self._steered is not None:
            self._steered.check(np.array(indices))
        slot_map = pager.slot_map(self._layer)
        if slot_map is not None:
            if meanwhile is not None:
                self._timed(meanwhile)
            self._tap.chose(self._layer, indices)
            output = self._timed(self._inner, x, slot_map[indices])
        else:
            output = self._paged(x, indices, begin, meanwhile)
        output = self._tap.watch(output, self._layer, x)
        told, spent = pager.told_ns - told, pager.clock() - begin
        pager.tell(Served(self._layer, begin, spent, self._experts_ns, told))
        return output

    def _timed(self, compute: Callable[..., Any], *given: Any) -> Any:
        """What the experts' module computes, or with MLX's kernels only puts down to compute."""
        begin = self._pager.clock()
        output = compute(*given)
        self._experts_ns += self._pager.clock() - begin
        return output

    def _paged(
        self, x: mx.array, indices: mx.array, begin: int, meanwhile: Callable[[], object] | None
    ) -> mx.array:
        """Learn the ids, bring the experts in, compute."""
        pager = self._pager
        pager.bank.settle(indices)
        ids = np.array(indices, copy=True).astype(np.int64)
        routed = pager.clock()
        experts, counts = np.unique(ids, return_counts=True)
        keys = [ExpertKey(self._layer, expert) for expert in experts.tolist()]
        pager.table.routed(self._layer, ids.reshape(-1, ids.shape[-1]))
        self._tell_routed(ids, keys, begin, routed)
        fates = pager.looked_up(keys)
        if ids.size == ids.shape[-1] and self._foreseen is not None and self._may(self._foreseen):
            self._foreseen.learn(x, ids, fates)
        if ids.size == ids.shape[-1]:
            return self._in_parts(x, ids, pager.table.split(keys), None, meanwhile)
        uses = dict(zip(keys, counts.tolist(), strict=True))
        keep = pager.table.favourites(self._layer, uses, pager.layers)
        return self._in_parts(x, ids, pager.table.split(keys, uses), keep, meanwhile)

    def _tell_routed(
        self, ids: npt.NDArray[np.int64], keys: list[ExpertKey], begin: int, routed: int
    ) -> None:
        held = np.zeros(self._experts, bool)
        held[[key.expert for key in keys if key in self._pager.table]] = True
        experts = ids.reshape(-1, ids.shape[-1])
        self._pager.tell(
            Routed(
                layer=self._layer,
                experts=experts.astype(np.int32),
                hits=held[experts],
                route_ns=routed - begin,
                lookup_ns=self._pager.clock() - routed,
            )
        )

    def _in_parts(
        self,
        x: mx.array,
        ids: npt.NDArray[np.int64],
        parts: list[tuple[ExpertKey, ...]],
        keep: Set[ExpertKey] | None,
        meanwhile: Callable[[], object] | None,
    ) -> mx.array:
        """Fetch one part of the experts after the other, and compute with them.

        Args:
            keep: the experts of this layer that stay when they have been used, if not all.
        """
        pager = self._pager
        work: Parts | None = None
        looked = keep is not None  # a prompt needs too many to guess any
        for number, part in enumerate(parts):
            if number:  # what the last part computes must be done before its slots are written
                pager.bank.settle()
            with pager.fetch(part) as fetch:
                early = bool(fetch.reads) and pager.overlap and self._native
                looked = looked or self._look_ahead(x, fetch.landed and part is parts[-1])
                if number == 0 and meanwhile is not None:
                    self._timed(meanwhile)
                elif number == 0 and early and self._beside is not None:
                    self._timed(self._beside.compute, x)
                if len(parts) > 1 or early:
                    work = work or self._begin(x, ids.shape)
                    for slots in fetch.arrivals():
                        looked = looked or self._look_ahead(x, fetch.landed and part is parts[-1])
                        self._timed(self._add, work, ids, slots)
            if keep is not None:
                # An order of leaving only: nothing is written before the bank is settled again.
                pager.table.spare_all_but(self._layer, keep)
        if not looked:
            self._look_ahead(x, True)
        if work is not None:
            whole: mx.array = self._timed(work.output)
            return whole
        slot_ids = mx.array(self._slots(fetch.slots)[ids].astype(np.uint32))
        output: mx.array = self._timed(self._inner, x, slot_ids)
        pager.bank.reading(output)
        return output

    def _look_ahead(self, x: mx.array, now: bool) -> bool:
        """Begin to read for the next layer, if it is time: nothing else is being read."""
        if now and self._next is not None and self._may(self._next):
            self._next.foresee(x)
        return now

    def _may(self, ahead: Ahead) -> bool:
        """Whether to guess, the way this layer computes."""
        return self._native or not ahead.native_only

    @property
    def _native(self) -> bool:
        """Whether it computes when it is called: in parts, then, at no cost."""
        return hasattr(self._inner, "parts")

    def _begin(self, x: mx.array, shape: tuple[int, ...]) -> Parts:
        if self._native:
            parts: Parts = self._inner.parts(x, shape)
            return parts
        return LazyParts(self._inner, x, shape, self._pager.bank.reading)

    def _add(self, work: Parts, ids: npt.NDArray[np.int64], slots: Mapping[ExpertKey, int]) -> None:
        """Compute all of a call's pairs whose experts are among these."""
        found = self._slots(slots)[ids.ravel()]
        mine = np.flatnonzero(found >= 0)
        work.add(mine, found[mine])

    def _slots(self, slot_of: Mapping[ExpertKey, int]) -> npt.NDArray[np.int64]:
        """Expert id → slot, as an array to index with ids; -1 for those that are not there."""
        slots = np.full(self._experts, -1, np.int64)
        slots[[key.expert for key in slot_of]] = list(slot_of.values())
        return slots
