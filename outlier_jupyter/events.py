"""The events of the decode path, as immutable records.

The pager and the engine emit them to one sink, in the order in which they happen. The recorder,
the live view and tests subscribe; this module knows no subscriber. In all events `layer` counts the
MoE layers from 0, `expert` is a number within its layer, and `slot` a row of the bank. Times are
nanoseconds of the engine's clock (`time.perf_counter_ns` unless a test passes its own): a
`start_ns` is a moment, all others are durations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .aliases import add_aliases, old_names

PREFILL = 0
DECODE = 1


class Unsubscribe(Exception):
    """A sink raises it to receive no more events of this run; from then on it costs nothing."""


class PromptEncoded(NamedTuple):
    """The prompt is encoded: `tokens` are left to read, `reused` are in the KV cache already."""

    tokens: npt.NDArray[np.int32]
    reused: int


class CallStarted(NamedTuple):
    """A call of the model begins, over `tokens` (a prefill chunk, or one token).

    `phase` is `PREFILL` or `DECODE`.
    """

    phase: int
    tokens: npt.NDArray[np.int32]
    start_ns: int


class Routed(NamedTuple):
    """A layer's router chose `experts`; `hits` says which are hits. Both [tokens, k], router order.

    A hit is an expert that was resident before this layer's call read any expert. The ids took
    `route_ns` to leave the device, the lookup `lookup_ns`.
    """

    layer: int
    experts: npt.NDArray[np.int32]
    hits: npt.NDArray[np.bool_]
    route_ns: int
    lookup_ns: int


class Evicted(NamedTuple):
    """An expert was evicted from `slot`, to make room for (`by_layer`, `by_expert`).

    Where memory was short and the cache was made smaller, it is evicted for itself.
    """

    layer: int
    expert: int
    slot: int
    by_layer: int
    by_expert: int


class PagedIn(NamedTuple):
    """An expert was read into its slot: `nbytes` of weights, in `ns` from `start_ns`.

    An asynchronous read (Linux AIO) ends when the decode thread notices: at once if the thread
    waits for it, else after the computation under way. `rank` is the rank that read it, where the
    experts are spread over ranks.
    """

    layer: int
    expert: int
    slot: int
    nbytes: int
    start_ns: int
    ns: int
    rank: int = 0


class Waited(NamedTuple):
    """The decode thread waited `ns` for a layer's reads; committing them took `install_ns`."""

    layer: int
    ns: int
    install_ns: int


class RanksServed(NamedTuple):
    """All ranks computed a layer: the output was there once the slowest was done.

    Attributes:
        ns: int64 [ranks], nanoseconds from a rank's input to its output.
        hits, lookups: int64 [ranks], of the choices of the experts that a rank owns.
        resident: int64 [ranks], experts in its cache afterwards.
        owners: int64 [experts], the rank of each of the layer's experts.
    """

    layer: int
    ns: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    lookups: npt.NDArray[np.int64]
    resident: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]


class Served(NamedTuple):
    """A layer's switch returned, `ns` after its call at `start_ns`; reported when the call ends.

    Of `ns`, the experts' module took `experts_ns` and reporting to subscribers `report_ns`. With
    MLX's kernels the module only builds a graph, which is computed with the next layer's ids.
    """

    layer: int
    start_ns: int
    ns: int
    experts_ns: int
    report_ns: int


class Weighed(NamedTuple):
    """The router's `weights` of a layer's chosen experts: float32 [tokens, k]."""

    layer: int
    weights: npt.NDArray[np.float32]


class ResidentLayers(NamedTuple):
    """The choices of fully resident layers for one token, reported together when the call ends.

    It stands for one `Routed`, `Weighed` and `Served` per layer, at an eighth of their cost.
    Subscribers that do not request `ResidentLayers` receive the individual events instead.

    Attributes:
        layers: int64 [n], in the order in which they ran.
        experts, weights: int32 and float32, [n, k]; all experts are hits.
        start_ns, ns: int64 [n], when each layer's switch was called and for how long.
    """

    layers: npt.NDArray[np.int64]
    experts: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    start_ns: npt.NDArray[np.int64]
    ns: npt.NDArray[np.int64]

    def events(self) -> list[Routed | Weighed | Served]:
        """The individual events."""
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


class Predicted(NamedTuple):
    """What the model itself found likely at the end of a call, before penalties and temperature.

    One row for each of the call's last tokens: about the token sampled after it, or with
    `score_prompt` also the prompt's next one. Reported before the `StepDone`; not by a prefill
    chunk that neither samples nor scores.

    Attributes:
        numbers: int32 [tokens, 3 + 2 n], the bytes of `rows`: these are copied at a third of the
            cost of structured rows.
    """

    numbers: npt.NDArray[np.int32]

    @property
    def rows(self) -> npt.NDArray[np.void]:
        """Structured [tokens], see `prediction`."""
        return self.numbers.view(prediction((self.numbers.shape[1] - 3) // 2))[:, 0]


@lru_cache
def prediction(n: int) -> np.dtype[np.void]:
    """The type of a row of `Predicted` with `n` alternatives.

    `logprob` is the token's log-probability in nats, `rank` 1 for the likeliest token, `entropy` of
    the whole distribution in nats. `alternatives` are the ids of the n likeliest tokens, the
    likeliest first (-1: no further one), and `alternative_logprobs` their log-probabilities. A row
    without a token has NaN, rank 0 and -1.
    """
    return np.dtype(
        [
            ("logprob", np.float32),
            ("rank", np.int32),
            ("entropy", np.float32),
            ("alternatives", np.int32, (n,)),
            ("alternative_logprobs", np.float32, (n,)),
        ]
    )


class StepDone(NamedTuple):
    """A call of the model ended: `produced` is the sampled token, or -1 in prefill.

    Of its `ns`, the subscribers took `report_ns` before the model was called, the model's own
    code `forward_ns`, and sampling after it `sample_ns`.
    """

    produced: int
    ns: int
    sample_ns: int
    forward_ns: int = 0
    report_ns: int = 0


class Compared(NamedTuple):
    """The last step compared with the exact model: `kl` is KL(exact ‖ run) in nats, and `agrees`
    whether both take the same token. A run with `measure_loss` reports it after the `StepDone`.
    """

    kl: float
    agrees: bool


class TextProduced(NamedTuple):
    """The detokenizer released some `text` (tokens and text do not align one to one)."""

    text: str


class SegmentText(NamedTuple):
    """The `text` of a segment, without tags: `kind` is `thinking`, `answer` or `tool call`.

    It follows the `TextProduced` that released it. What may be the begin of a tag is held back
    until it is known to be none. Line breaks after a tag are left out.
    """

    kind: str
    text: str


class RunDone(NamedTuple):
    """The run ended by `finish_reason`: `stop` (end of turn or stop word), `length`, `interrupted`
    or `error`.
    """

    finish_reason: str


class Resized(NamedTuple):
    """The cache was resized, to `slots` in all layers together: between two runs, or within one,
    before a call of the model, because memory was short or is free again.
    """

    slots: int


Event: TypeAlias = (
    PromptEncoded
    | CallStarted
    | Routed
    | Evicted
    | PagedIn
    | Waited
    | RanksServed
    | Served
    | Weighed
    | ResidentLayers
    | Predicted
    | StepDone
    | Compared
    | TextProduced
    | SegmentText
    | RunDone
    | Resized
)
Sink: TypeAlias = Callable[[Event], None]

add_aliases(ResidentLayers, singly="events")
add_aliases(Served, told_ns="report_ns")
add_aliases(StepDone, told_ns="report_ns")
__getattr__ = old_names(__name__, HeldLayers="ResidentLayers")
