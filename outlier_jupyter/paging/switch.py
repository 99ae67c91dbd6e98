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
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from ..events import Routed
from ..residency import ExpertKey
from .lookahead import Ahead
from .pager import Pager
from .partial_experts import PartialExperts
from .router_tap import RouterTap
from .routing_override import Steered
from .shared_expert import Beside
from .switch_inputs import F32s, Graph, Ids, SlotMap, Stopwatch, SwitchInputs, TokenRow

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
        # And these, or they would be taken for parameters.
        object.__setattr__(self, "_keys", [ExpertKey(layer, each) for each in range(experts)])
        self._keys: list[ExpertKey]
        self._layer = layer
        self._pager = pager
        self._timed = Stopwatch(pager.clock)  # of the experts' own module
        self._tap = tap
        self._steered: Steered | None = None  # set by Steering while the routing is changed
        self._next: Ahead | None = None
        self._foreseen: Ahead | None = None
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
        output: mx.array = self._serve(Graph(x, indices), meanwhile)
        return output

    def decode(
        self, x: F32s, ids: Ids, weights: F32s, meanwhile: Callable[[], object] | None = None
    ) -> F32s:
        """The same for one token of a layer that computes natively, which MLX never sees.

        Args:
            x, ids, weights: [1, width], [1, k] with no expert twice, [1, k]; told are the weights,
                which must stay as they are, and not applied.

        Returns:
            float32 [1, k, width].
        """
        output: F32s = self._serve(TokenRow(x, ids, weights), meanwhile)
        return output

    @property
    def inner(self) -> Any:
        """The experts' own module, mlx-lm's, over the bank's slots."""
        return self._inner

    @property
    def held(self) -> SlotMap | None:
        """Expert → slot, where the layer is held for good and its routing is the model's own."""
        return self._pager.slot_map(self._layer) if self._steered is None else None

    def room(self, k: int) -> tuple[Ids, F32s]:
        """Where `decode_resident` finds what was chosen: ids and weights, both [1, k]."""
        return self._tap.choices.room(self._layer, k)

    def decode_resident(self, k: int, compute: Callable[[], object]) -> None:
        """`decode` where the layer is `held`: whoever asks computes, by `compute`.

        Ids and weights to be told lie in `room(k)`, until the call ends.
        """
        pager = self._pager
        pager.enter()
        begin = pager.clock()
        compute()
        self._tap.noted((k, self._layer, begin, pager.clock() - begin))

    def _serve(self, given: SwitchInputs, meanwhile: Callable[[], object] | None) -> Any:
        pager, timed = self._pager, self._timed
        pager.enter()
        begin, told, timed.ns = pager.clock(), pager.report_ns, 0
        if self._steered is not None:
            self._steered.check(np.array(given.indices))
        slot_map = pager.slot_map(self._layer)
        if slot_map is not None:
            if meanwhile is not None:
                timed(meanwhile)
            self._tap.chose(self._layer, given.indices)
            output = timed(given.with_map, self._inner, slot_map)
        else:
            output = self._paged(given, begin, meanwhile)
        output = given.weighed(self._tap, self._layer, output)
        told, spent = pager.report_ns - told, pager.clock() - begin
        self._tap.served(self._layer, begin, spent, timed.ns, told)
        return output

    def _paged(
        self, given: SwitchInputs, begin: int, meanwhile: Callable[[], object] | None
    ) -> Any:
        """Learn the ids, bring the experts in, compute."""
        pager = self._pager
        ids = given.ids(pager.bank)
        routed = pager.clock()
        rows = ids.reshape(-1, ids.shape[-1])
        alone = len(rows) == 1
        if alone:
            experts, counts = sorted(set(rows[0].tolist())), []
        else:
            experts, counts = (found.tolist() for found in np.unique(ids, return_counts=True))
        keys = [self._keys[expert] for expert in experts]
        held = [expert for expert, key in zip(experts, keys, strict=True) if key in pager.table]
        pager.table.routed(self._layer, rows)
        fates = pager.looked_up(keys)
        if alone and self._foreseen is not None and self._may(self._foreseen):
            self._foreseen.learn(given.array(), ids, fates)
        tell = partial(self._tell_routed, rows, held, begin, routed)
        if alone:
            return self._in_parts(given, ids, pager.table.split(keys), None, meanwhile, tell)
        uses = dict(zip(keys, counts, strict=True))
        keep = pager.table.favourites(self._layer, uses, pager.layers)
        return self._in_parts(given, ids, pager.table.split(keys, uses), keep, meanwhile, tell)

    def _tell_routed(self, experts: Ids, held: list[int], begin: int, routed: int) -> None:
        """Of `experts` [tokens, k], of which some were `held`."""
        hits = np.zeros(len(self._keys), bool)
        hits[held] = True
        self._pager.tell(
            Routed(
                layer=self._layer,
                experts=experts.astype(np.int32),
                hits=hits[experts],
                route_ns=routed - begin,
                lookup_ns=self._pager.clock() - routed,
            )
        )

    def _in_parts(
        self,
        given: SwitchInputs,
        ids: Ids,
        parts: list[tuple[ExpertKey, ...]],
        keep: Set[ExpertKey] | None,
        meanwhile: Callable[[], object] | None,
        tell: Callable[[], object],
    ) -> Any:
        """Fetch one part of the experts after the other, and compute with them.

        Args:
            keep: the experts of this layer that stay when they have been used, if not all.
            tell: says what was chosen; called when the first reads have begun, to be done beside.
        """
        pager = self._pager
        work: PartialExperts | None = None
        looked = keep is not None  # a prompt needs too many to guess any
        for number, part in enumerate(parts):
            if number:  # what the last part computes must be done before its slots are written
                pager.bank.settle()
            with pager.fetch(part) as fetch:
                if number == 0:
                    tell()
                early = bool(fetch.reads) and pager.overlap and self._native
                looked = looked or self._look_ahead(given, fetch.landed and part is parts[-1])
                if number == 0 and meanwhile is not None:
                    self._timed(meanwhile)
                elif number == 0 and early and self._beside is not None:
                    self._timed(self._beside.compute, given.array())
                if len(parts) > 1 or early:
                    work = work or given.parts(self._inner, pager.bank)
                    for slots in fetch.arrivals():
                        last = fetch.landed and part is parts[-1]
                        looked = looked or self._look_ahead(given, last)
                        self._timed(self._add, work, ids, slots)
            if keep is not None:
                # An order of leaving only: nothing is written before the bank is settled again.
                pager.table.spare_all_but(self._layer, keep)
        if not looked:
            self._look_ahead(given, True)
        if work is not None:
            return self._timed(given.joined, work)
        slot_ids = self._slot_ids(ids, fetch.slots)
        return self._timed(given.with_slots, self._inner, slot_ids, pager.bank)

    def _look_ahead(self, given: SwitchInputs, now: bool) -> bool:
        """Begin to read for the next layer, if it is time: nothing else is being read."""
        if now and self._next is not None and self._may(self._next):
            self._next.foresee(given.array())
        return now

    def _may(self, ahead: Ahead) -> bool:
        """Whether to guess, the way this layer computes."""
        return self._native or not ahead.native_only

    @property
    def _native(self) -> bool:
        """Whether it computes when it is called: in parts, then, at no cost."""
        return hasattr(self._inner, "parts")

    def _add(self, work: PartialExperts, ids: Ids, slots: Mapping[ExpertKey, int]) -> None:
        """Compute all of a call's pairs whose experts are among these."""
        if ids.size < len(self._keys):  # a token: its few ids are looked up one by one
            held = {key.expert: slot for key, slot in slots.items()}
            pairs = [(i, held[each]) for i, each in enumerate(ids.ravel().tolist()) if each in held]
            mine, found = np.array(pairs, np.int64).reshape(-1, 2).T
            work.add(mine, found)
            return
        found = self._slots(slots)[ids.ravel()]
        mine = np.flatnonzero(found >= 0)
        work.add(mine, found[mine])

    def _slot_ids(self, ids: Ids, slot_of: Mapping[ExpertKey, int]) -> Ids:
        """The slots of ids [..., k], all of which are there."""
        if ids.size < len(self._keys):  # a token, as above
            few = [slot_of[self._keys[each]] for each in ids.ravel().tolist()]
            return np.array(few, np.int64).reshape(ids.shape)
        return self._slots(slot_of)[ids]

    def _slots(self, slot_of: Mapping[ExpertKey, int]) -> Ids:
        """Expert id → slot, as an array to index with ids; -1 for those that are not there."""
        slots = np.full(len(self._keys), -1, np.int64)
        slots[[key.expert for key in slot_of]] = list(slot_of.values())
        return slots
