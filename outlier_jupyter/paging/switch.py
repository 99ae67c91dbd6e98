"""The module that stands in for mlx-lm's SwitchGLU or SwitchMLP.

It reads the router's ids back (the one synchronisation per MoE layer), has their experts made
resident, and lets the original module compute over the bank with slot ids in place of expert ids.
Activation, expert biases and the sorting of long prompts are therefore mlx-lm's own.

Once a layer is fully resident, and nothing of it will be evicted, no ids are read back: slot ids
are looked up on the device, nothing is evaluated, and the tap reads the ids when the call is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from .paged_layer import PagedLayer
from .pager import Pager
from .router_tap import RouterTap
from .routing_override import LayerOverride
from .switch_inputs import F32s, Ids, LazyInputs, Stopwatch, SwitchInputs, TokenInputs
from .token_paging import TokenPaging

PROJECTIONS = (SwitchLinear, QuantizedSwitchLinear)


def stacked_tensors(switch: nn.Module) -> dict[str, mx.array]:
    """A switch's tensors with one row per expert, [experts, …], by name below the switch."""
    tensors: dict[str, mx.array] = {}
    for name, child in switch.children().items():
        if isinstance(child, PROJECTIONS):
            found: Any = tree_flatten(child.parameters(), prefix=f".{name}", destination={})
            tensors |= found
    return tensors


class PagedSwitch(nn.Module):
    """Called as the switch it replaces: x [..., width], indices [..., k] → [..., k, width].

    Attributes:
        paged: brings this layer's experts in and computes them.
    """

    def __init__(self, inner: nn.Module, layer: int, experts: int, pager: Pager, tap: RouterTap):
        super().__init__()  # type: ignore[no-untyped-call]  # mlx.nn's has no types
        # Kept outside the module's own dictionary, or the bank, which all layers share, would be
        # counted once per layer by whatever walks the model (MLX's wired limit, a save).
        object.__setattr__(self, "_inner", inner)
        self._inner: Any
        self._layer = layer
        self._pager = pager
        self._timed = Stopwatch(pager.clock)  # of the experts' own module
        self._tap = tap
        self.paged = PagedLayer(inner, layer, experts, pager, self._timed)
        self._override: LayerOverride | None = None
        # Other children with weights (muse_spark hangs a norm on its switch) stay in the model.
        for name, child in inner.children().items():
            if not isinstance(child, PROJECTIONS) and tree_flatten(child):
                self[name] = child

    def override_routing(self, override: LayerOverride | None) -> None:
        """Check each choice of the router against `override`, until it is None again."""
        self._override = override

    def __getattr__(self, name: str) -> object:
        """The original switch's other attributes stay reachable."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._inner, name)

    def __call__(
        self, x: mx.array, indices: mx.array, meanwhile: Callable[[], object] | None = None
    ) -> mx.array:
        """As the switch it replaces.

        Args:
            meanwhile: called once, while reads are under way if there are any. Without it, a
                native module has its block's shared expert computed then.
        """
        output: mx.array = self._serve(LazyInputs(x, indices), meanwhile)
        return output

    def decode(
        self, x: F32s, ids: Ids, weights: F32s, meanwhile: Callable[[], object] | None = None
    ) -> F32s:
        """The same for one token of a native decoder layer, without MLX.

        Args:
            x, ids, weights: [1, width], [1, k] with no expert twice, [1, k]. The weights are
                reported to the trace, not applied; they must not change during the call.

        Returns:
            float32 [1, k, width].
        """
        output: F32s = self._serve(TokenInputs(x, ids, weights), meanwhile)
        return output

    @property
    def inner(self) -> Any:
        """The original switch, which computes over the bank's slots."""
        return self._inner

    @property
    def token_paging(self) -> TokenPaging | None:
        """What compiled code needs to serve this layer's tokens; None if only Python can."""
        only_python = self._override is not None or not self.paged.alone
        paging = self._pager.token
        return None if only_python or not paging.usable else paging

    @property
    def resident(self) -> bool:
        """Whether the layer is fully resident, and stays so."""
        return self.paged.slot_map() is not None

    @property
    def tap(self) -> RouterTap:
        """The tap that its choices are reported to."""
        return self._tap

    @property
    def layer(self) -> int:
        """Its number among the MoE layers."""
        return self._layer

    def _serve(self, inputs: SwitchInputs, meanwhile: Callable[[], object] | None) -> Any:
        pager, timed = self._pager, self._timed
        pager.check_running()
        begin, report_begin, timed.ns = pager.clock(), pager.report_ns, 0
        if self._override is not None:
            self._override.check(np.array(inputs.indices))
        slot_map = self.paged.slot_map()
        if slot_map is not None:
            if meanwhile is not None:
                timed(meanwhile)
            self._tap.record_ids(self._layer, inputs.indices)
            output = timed(inputs.compute_resident, self._inner, slot_map)
        else:
            output = self.paged.serve(inputs, begin, meanwhile)
        output = inputs.tap_weights(self._tap, self._layer, output)
        report_ns, spent = pager.report_ns - report_begin, pager.clock() - begin
        self._tap.record_served(self._layer, begin, spent, timed.ns, report_ns)
        return output
