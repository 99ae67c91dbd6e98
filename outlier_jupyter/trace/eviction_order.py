"""The eviction order after a step: which resident expert would be evicted next, and which last.

It is the order of the run's own policy, which replays the routing up to that step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import OptionError, TraceError
from ..residency.eviction_order import CacheStart, OrderReplay
from ..residency.policies import POLICIES, canonical_name
from .measures import residency, widest
from .what_if import routing_of

if TYPE_CHECKING:
    from .trace import Trace

SHOWN = 3
"""How many of the experts that are evicted next are named."""


@dataclass(frozen=True, eq=False)
class EvictionOrder:
    """The resident experts after one step, in eviction order.

    Attributes:
        step: the step, counted from 0, with the prompt.
        experts: int16 [n, 2], (layer, expert) pairs: the first one is evicted next, the last one
            stays longest.
        pinned: how many of them, at the end, are pinned, and never evicted.
        policy: the run's eviction policy.
        exact: whether the order is the one that the run had. False if the policy had learned from
            earlier runs what the trace does not hold; such an order is that of a policy that
            learned from this run only.
    """

    step: int
    experts: npt.NDArray[np.int16]
    pinned: int
    policy: str
    exact: bool

    def __repr__(self) -> str:
        pairs = self.experts[: len(self.experts) - self.pinned][:SHOWN].tolist()
        names = ", ".join(f"layer {layer} expert {expert}" for layer, expert in pairs)
        note = "" if self.exact else ", without what earlier runs taught it"
        return f"EvictionOrder(step={self.step}, next out: {names or 'none'}; {self.policy}{note})"


class EvictionOrders:
    """The eviction orders of one trace; a step near the last requested one is quick.

    Args:
        start: the engine's cache before the run; None if it is not known.

    Raises:
        TraceError: the order cannot be known: no MoE layers, no slots recorded, a policy that is
            not registered here, or one that has no order.
    """

    def __init__(self, trace: Trace, start: CacheStart | None = None) -> None:
        info, self._trace = trace.info, trace
        routing = routing_of(trace)
        spec = POLICIES.get(canonical_name(info.policy))
        if not info.slots or not (trace.has("reads") and trace.has("evictions")):
            raise TraceError(
                "the eviction order is not known: this trace has no size of the cache, reads or "
                "evictions; record it with this package"
            )
        if trace.shared:
            raise TraceError(
                "the eviction order is not known: this run shared its calls with other prompts, "
                "whose lookups are not in its trace; run the prompt by itself"
            )
        if spec is None or spec.make is None:
            raise TraceError(
                f"the eviction order is not known: no policy {info.policy!r} is registered here; "
                "import the package that has it"
            )
        begins = trace.resident_at_start
        self._replay = OrderReplay(routing, spec.name, info.slots, begins, start)
        if not self._replay.ranks:
            raise TraceError(f"policy {spec.name!r} has no eviction order between two tokens")
        # With the cache at the start, or where it was empty, the policy lacks nothing.
        self._whole = start is not None or not len(begins) or spec.name == "lru"
        self._policy = spec.name

    def after(self, step: int) -> EvictionOrder:
        """The order after `step`, which counts from 0 with the prompt; -1 is the last one.

        Raises:
            OptionError: no such step.
        """
        trace = self._trace
        if not -trace.steps <= step < trace.steps:
            raise OptionError(
                f"step {step} does not exist: this run has {trace.steps:,}, counted from 0 with "
                "the prompt's"
            )
        call = int(trace.call[step])
        row = trace.calls[call]
        last = int(row["first_step"] + row["steps"] - 1)
        resident = residency(trace, last)
        keys, pinned, same = self._replay.order(call + 1, resident)
        pairs = np.stack(np.divmod(keys, widest(trace)), axis=1).astype(np.int16)
        return EvictionOrder(step % trace.steps, pairs, pinned, self._policy, self._whole and same)
