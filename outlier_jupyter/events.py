"""What happens on the decode path, as frozen records.

The pager and the engine emit these to one sink, in the order in which things happened; the
recorder, the live view and the tests subscribe. Nothing here knows who does. In all of them
`layer` counts the MoE layers from 0, `expert` is a number in its layer, `slot` a row of the bank.
Times are nanoseconds of the engine's clock (`time.perf_counter_ns` unless a test passes its own);
a `start_ns` is a moment of it, all others are durations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

PREFILL = 0
DECODE = 1


class Unsubscribe(Exception):
    """Raised by a sink that needs no more events of this run: it costs nothing from then on."""


class PromptEncoded(NamedTuple):
    """The prompt's ids, `tokens`, are known; the first `reused` are in the KV cache already."""

    tokens: npt.NDArray[np.int32]
    reused: int


class CallStarted(NamedTuple):
    """One call of the model begins, over `tokens` (all of a prefill chunk, or one token).

    `phase` is `PREFILL` or `DECODE`.
    """

    phase: int
    tokens: npt.NDArray[np.int32]
    start_ns: int


class Routed(NamedTuple):
    """A layer's router chose: `experts` and `hits` are [tokens, k], in the router's order.

    A hit is an expert that was resident before any expert of this layer's call was read. The ids
    took `route_ns` to leave the device, the lookup `lookup_ns`.
    """

    layer: int
    experts: npt.NDArray[np.int32]
    hits: npt.NDArray[np.bool_]
    route_ns: int
    lookup_ns: int


class Evicted(NamedTuple):
    """An expert was evicted, to make room for (`by_layer`, `by_expert`)."""

    layer: int
    expert: int
    slot: int
    by_layer: int
    by_expert: int


class PagedIn(NamedTuple):
    """An expert was read into its slot: `nbytes` of weights, in `ns` from `start_ns`.

    A read that the kernel made by itself counts until the decode thread learns of its end: at once
    where it waits for it, after what it computes where it does not.
    """

    layer: int
    expert: int
    slot: int
    nbytes: int
    start_ns: int
    ns: int


class Prefetched(NamedTuple):
    """A read begun before its layer's router had chosen: `used`, if the expert was then asked for.

    Told at that layer's look-up, before what is read for it: a used one is a `PagedIn` as well.
    `nbytes` is what was read, or is still being read.
    """

    layer: int
    expert: int
    nbytes: int
    used: bool


class Waited(NamedTuple):
    """The decode thread waited `ns` for all reads of one layer, and `install_ns` to commit them."""

    layer: int
    ns: int
    install_ns: int


class Served(NamedTuple):
    """A layer's switch returned, `ns` after it was called at `start_ns`; told when the call ends.

    Of that, `experts_ns` passed in the experts' own module and `report_ns` in telling who listens.
    With MLX's kernels the module only builds a graph, which is computed when the next ids are.
    """

    layer: int
    start_ns: int
    ns: int
    experts_ns: int
    report_ns: int


class Weighed(NamedTuple):
    """The `weights` that the model gave the chosen experts of a layer: float32 [tokens, k]."""

    layer: int
    weights: npt.NDArray[np.float32]


class ResidentLayers(NamedTuple):
    """What layers that are held for good chose of one token, told together when the call ends.

    It stands for a `Routed`, a `Weighed` and a `Served` of each, which a listener that does not
    name this kind is told in its place: together they cost an eighth.

    Attributes:
        layers: int64 [n], in the order in which they served.
        experts, weights: int32 and float32, [n, k]; all of the experts were hits.
        start_ns, ns: int64 [n], when each layer's switch was called and for how long.
    """

    layers: npt.NDArray[np.int64]
    experts: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    start_ns: npt.NDArray[np.int64]
    ns: npt.NDArray[np.int64]

    def singly(self) -> list[Routed | Weighed | Served]:
        """The events it stands for."""
        layers, hits = self.layers.tolist(), np.ones((1, self.experts.shape[1]), bool)
        routed = [
            Routed(layer, row, hits, 0, 0)
            for layer, row in zip(layers, self.experts[:, None], strict=True)
        ]
        weighed = [
            Weighed(layer, row) for layer, row in zip(layers, self.weights[:, None], strict=True)
        ]
        times = zip(layers, self.start_ns.tolist(), self.ns.tolist(), strict=True)
        served = [Served(layer, start, ns, ns, 0) for layer, start, ns in times]
        return [*routed, *weighed, *served]


class StepDone(NamedTuple):
    """One call of the model ended: `produced` is the token sampled from it, or -1 in prefill.

    Of its `ns`, the model's own code took `forward_ns`, what follows it `sample_ns`, and the
    subscribers, before the model was called, `report_ns`.
    """

    produced: int
    ns: int
    sample_ns: int
    forward_ns: int = 0
    report_ns: int = 0


class Compared(NamedTuple):
    """The last step against the exact model: `kl`, KL(exact ‖ run) in nats, and `agrees`, whether
    both would have taken the same token. Comes after its `StepDone`, by a run with `measure_loss`.
    """

    kl: float
    agrees: bool


class TextProduced(NamedTuple):
    """The detokenizer let go of some `text` (tokens and text do not align one to one)."""

    text: str


class RunDone(NamedTuple):
    """The run ended. `finish_reason`: `stop` (end of turn or stop word), `length`, `interrupted` or
    `error`.
    """

    finish_reason: str


class Resized(NamedTuple):
    """Between two runs the cache was given another size: so many `slots` over all layers."""

    slots: int


Event: TypeAlias = (
    PromptEncoded
    | CallStarted
    | Routed
    | Evicted
    | PagedIn
    | Prefetched
    | Waited
    | Served
    | Weighed
    | ResidentLayers
    | StepDone
    | Compared
    | TextProduced
    | RunDone
    | Resized
)
Sink: TypeAlias = Callable[[Event], None]
