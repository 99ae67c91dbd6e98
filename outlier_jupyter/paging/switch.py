"""The module that stands in for mlx-lm's SwitchGLU or SwitchMLP.

It learns the router's ids (the one synchronisation per MoE layer), has the pager make those
experts resident, and lets the original module compute over the bank with slot ids in place of
expert ids. Activation, expert biases and the sorting of long prompts are therefore mlx-lm's own.

Once all experts of a layer are held for good, there is nothing to learn: slot ids are looked up on
the device, nothing is evaluated, and the tap reads the ids when the call is over.

A prompt may need more distinct experts than there are slots for it. Then the tokens are taken
expert by expert, in as many passes as it needs; the arithmetic of a row does not change with it.
What a layer of a prompt used most stays, up to its share of the slots, so that decode starts warm.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchGLU, SwitchLinear

from ..events import Routed
from ..residency import ExpertKey
from .pager import Pager
from .steering import Steered
from .weights import RouterTap

SORT_FROM = 64
"""From this many (token, expert) pairs mlx-lm sorts them by expert, and tells its kernels."""


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
        # What else has weights (muse_spark hangs a norm on its switch) stays part of the model.
        for name, child in inner.children().items():
            if not isinstance(child, PROJECTIONS) and tree_flatten(child):
                self[name] = child

    def __getattr__(self, name: str) -> object:
        """What a model hangs on its switch, beside the projections, stays reachable."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._inner, name)

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        pager = self._pager
        pager.enter()
        if self._steered is not None:
            self._steered.check(np.array(indices))
        slot_map = pager.slot_map(self._layer)
        if slot_map is not None:
            self._tap.chose(self._layer, indices)
            output = self._inner(x, slot_map[indices])
            return self._tap.watch(output, self._layer, x)
        begin = pager.clock()
        pager.bank.settle(indices)
        ids = np.array(indices, copy=True).astype(np.int64)
        routed = pager.clock()
        experts, counts = np.unique(ids, return_counts=True)
        keys = [ExpertKey(self._layer, expert) for expert in experts.tolist()]
        pager.table.routed(self._layer, ids.reshape(-1, ids.shape[-1]))
        self._tell_routed(ids, keys, begin, routed)
        if ids.size == ids.shape[-1]:
            output = self._in_parts(x, ids, pager.table.split(keys))
        else:
            uses = dict(zip(keys, counts.tolist(), strict=True))
            keep = pager.table.favourites(self._layer, uses, pager.layers)
            output = self._in_parts(x, ids, pager.table.split(keys, uses), keep)
        return self._tap.watch(output, self._layer, x)

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

    def _slots(self, slot_of: dict[ExpertKey, int]) -> npt.NDArray[np.uint32]:
        """Expert id → slot, as an array to index with ids."""
        slots = np.zeros(self._experts, np.uint32)
        slots[[key.expert for key in slot_of]] = list(slot_of.values())
        return slots

    def _in_parts(
        self,
        x: mx.array,
        ids: npt.NDArray[np.int64],
        parts: list[tuple[ExpertKey, ...]],
        keep: Set[ExpertKey] | None = None,
    ) -> mx.array:
        """Compute with all experts at once, if that is one part, or one part after the other.

        Args:
            keep: the experts of this layer that stay when they have been used, if not all.
        """
        if len(parts) > 1:
            return self._in_passes(x, ids, parts, keep)
        slots = self._slots(self._acquire(parts[0], keep))
        output: mx.array = self._inner(x, mx.array(slots[ids]))
        self._pager.bank.reading(output)
        return output

    def _acquire(
        self, part: tuple[ExpertKey, ...], keep: Set[ExpertKey] | None
    ) -> dict[ExpertKey, int]:
        slots = self._pager.acquire(part)
        if keep is not None:
            # An order of leaving only: nothing is written before the bank is settled again.
            self._pager.table.spare_all_but(self._layer, keep)
        return slots

    def _in_passes(
        self,
        x: mx.array,
        ids: npt.NDArray[np.int64],
        parts: list[tuple[ExpertKey, ...]],
        keep: Set[ExpertKey] | None,
    ) -> mx.array:
        """Compute expert by expert, one part of the experts after the other."""
        k = ids.shape[-1]
        pairs = ids.ravel()
        rows = x.reshape(-1, 1, x.shape[-1])
        outputs, order = [], []
        for part in parts:
            # What the last pass computes must be done before its slots are written again.
            self._pager.bank.settle()
            slots = self._slots(self._acquire(part, keep))
            mine = np.flatnonzero(np.isin(pairs, [key.expert for key in part]))
            mine = mine[np.argsort(slots[pairs[mine]], kind="stable")]
            output = self._compute(
                rows[mx.array((mine // k).astype(np.uint32))],
                mx.array(slots[pairs[mine]]),
                sorted_indices=len(pairs) >= SORT_FROM,
            )
            self._pager.bank.reading(output)
            outputs.append(output)
            order.append(mine)
        back = np.argsort(np.concatenate(order)).astype(np.uint32)
        output = mx.concatenate(outputs)[mx.array(back)]
        self._pager.bank.reading(output)
        return output.reshape(*ids.shape, output.shape[-1])

    def _compute(self, rows: mx.array, slots: mx.array, sorted_indices: bool) -> mx.array:
        """The original's arithmetic on rows [n, 1, width] of one expert each, in slot order."""
        inner = self._inner
        output: mx.array
        if hasattr(inner, "on_rows"):  # a native one
            output = inner.on_rows(rows, slots)
        elif isinstance(inner, SwitchGLU):
            up = inner.up_proj(rows, slots, sorted_indices=sorted_indices)
            gate = inner.gate_proj(rows, slots, sorted_indices=sorted_indices)
            hidden = inner.activation(up, gate)
            output = inner.down_proj(hidden, slots, sorted_indices=sorted_indices)
        else:
            hidden = inner.activation(inner.fc1(rows, slots, sorted_indices=sorted_indices))
            output = inner.fc2(hidden, slots, sorted_indices=sorted_indices)
        return output
