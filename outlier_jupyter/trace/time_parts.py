"""The parts of a token's time: their names, their meaning, and how a call's time is divided.

The recorder sums each call's times with `call_times`. The live view, `times()`, `explain`, report,
static view and replays all divide them with `divide`. Compiled kernels compute a layer when it is
called, so dense parts and experts are measured separately. MLX's kernels build a graph, which runs
when the next layer's ids are read: compute is then one part, since measuring must not force an
evaluation. A part that was not measured is NaN, and so are all parts of a trace without times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..events import StepDone
from .schema import LAYER_PARTS

if TYPE_CHECKING:
    from .trace import Trace


class Part(NamedTuple):
    """A part of a token's time.

    Attributes:
        name: its label in every view.
        meaning: what it contains.
        meaning_with_mlx: the same with MLX's kernels, "" where it does not differ.
        kernels: "cpu" or "mlx" if it exists with those kernels only, "" if with both.
    """

    name: str
    meaning: str
    meaning_with_mlx: str = ""
    kernels: str = ""


PARTS = {
    "dense": Part(
        "dense compute",
        "attention, norms, routers, the output head, and the Python around them",
        kernels="cpu",
    ),
    "experts": Part(
        "expert compute",
        "the experts' matrices, and a shared expert if it was computed during reads",
        kernels="cpu",
    ),
    "graph": Part(
        "building MLX's graph",
        "building, in Python, the graph that MLX computes later",
        kernels="mlx",
    ),
    "compute": Part(
        "compute, undivided",
        "what MLX computed until the routers' ids were known: dense parts and the experts of the "
        "layer before, which are not measured separately",
        kernels="mlx",
    ),
    "route": Part("reading expert ids", "reading the routers' ids back", kernels="cpu"),
    "lookup": Part(
        "cache lookup", "finding which experts are resident, and choosing which to evict"
    ),
    "read_wait": Part("waiting for reads", "waiting for experts from disk"),
    "install": Part("copying into slots", "copying the experts read into their slots"),
    "sample": Part(
        "sampling",
        "the sampler",
        meaning_with_mlx="the last layer's experts, the output head and the sampler",
    ),
    "watch": Part("recording and showing", "sending events to the recorder and the live view"),
    "other": Part("other", "the rest of the call"),
}
"""The parts of a token's time, in the order in which figures stack them and frames send them."""

TIMES = (
    *("ns", "route_ns", "lookup_ns", "read_wait_ns", "install_ns", "sample_ns", "forward_ns"),
    *("outside_ns", "experts_ns", "watch_ns"),
)
"""The fields of `CALL` that `call_times` makes and `divide` takes."""

OF_CPU = {"dense": "outside_ns", "experts": "experts_ns", "route": "route_ns"}
OF_MLX = {"graph": "outside_ns", "compute": "route_ns"}
OF_BOTH = {"read_wait": "read_wait_ns", "install": "install_ns", "sample": "sample_ns",
           "watch": "watch_ns"}  # fmt: skip
"""Part → the field of `CALL` that measures it. Parts take their time from a call in this order.
Lookup comes last: where a switch did not report its time, `lookup_ns` includes starting reads."""
SINCE_2 = {"dense", "experts", "graph", "watch"}
"""Parts that a trace of version 1 does not have."""

Floats = npt.NDArray[np.float64]


def parts_with(kernels: str) -> list[str]:
    """The `PARTS` that a run with these kernels has, in order."""
    cpu = "cpu" if kernels == "cpu" else "mlx"
    return [name for name, part in PARTS.items() if part.kernels in ("", cpu)]


def part_name(part: str) -> str:
    """The label of a part."""
    return PARTS[part].name


def layer_part_name(part: str, kernels: str) -> str:
    """The label of one of `LAYER_PARTS`: that of the part of the token's time it belongs to."""
    whole = part_name(part_of_layer(part, kernels))
    graph = {"before": "dense parts", "experts": "experts"}
    return whole if kernels == "cpu" or part not in graph else f"{whole}: {graph[part]}"


def part_of_layer(part: str, kernels: str) -> str:
    """Which of `PARTS` one of `LAYER_PARTS` belongs to."""
    of_mlx = {"before": "graph", "experts": "graph", "route": "compute"}
    return ({"before": "dense"} if kernels == "cpu" else of_mlx).get(part, part)


def meaning(part: str, kernels: str) -> str:
    """What a part contains, in a run with these kernels."""
    found = PARTS[part]
    return found.meaning if kernels == "cpu" else found.meaning_with_mlx or found.meaning


def call_times(
    done: StepDone,
    route: int,
    lookup: int,
    waited: int,
    install: int,
    served: tuple[int, int, int] | None,
) -> tuple[int, ...]:
    """One call's `TIMES`, in nanoseconds, from its events.

    Args:
        done: the event that ended it.
        route, lookup, waited, install: sums over its layers, from `Routed` and `Waited`.
        served: sums of `Served` over its switches: `ns`, `experts_ns`, `report_ns`; None if there
            were no such events.
    """
    if served is None:
        inside, experts, report = route + lookup + waited + install, 0, 0
    else:
        inside, experts, report = served
        # The rest of the switches' time: besides the lookup, recording evictions.
        lookup = max(0, inside - route - waited - install - experts - report)
    outside = max(0, done.forward_ns - inside)
    return (
        *(done.ns, route, lookup, waited, install, done.sample_ns, done.forward_ns),
        *(outside, experts, report + done.report_ns),
    )


def divide(calls: npt.NDArray[np.void], kernels: str) -> Floats:
    """Milliseconds of each of `PARTS`: float64 [calls, parts], NaN where a part was not measured.

    The parts of a call add up to its `ns`. The last part is the rest; a part whose time another
    has taken already gets at most what is left of the call.

    Args:
        calls: structured, with the fields `TIMES`.
        kernels: "cpu" for compiled kernels.
    """
    out = np.full((len(calls), len(PARTS)), np.nan)
    known = calls["forward_ns"] > 0
    left = np.maximum(calls["ns"], 0)
    at = {name: column for column, name in enumerate(PARTS)}
    claims = OF_BOTH | (OF_CPU if kernels == "cpu" else OF_MLX) | {"lookup": "lookup_ns"}
    for name, field in claims.items():
        spent = np.clip(calls[field], 0, left)
        if field == "outside_ns" and kernels != "cpu":  # the experts' modules build a graph, too
            spent = np.clip(calls[field] + calls["experts_ns"], 0, left)
        if name in SINCE_2:
            spent = np.where(known, spent, 0)
        left = left - spent
        out[:, at[name]] = np.where(known, spent / 1e6, np.nan) if name in SINCE_2 else spent / 1e6
    out[:, at["other"]] = left / 1e6
    return out


def parts_of_calls(trace: Trace) -> dict[str, Floats]:
    """Milliseconds of each part: float64 [calls]; those that are not NaN add up to the call."""
    table = divide(trace.calls, trace.info.kernels)
    if not trace.has("calls"):
        table[:] = np.nan
    return {name: table[:, column] for column, name in enumerate(PARTS)}


def parts_of_tokens(trace: Trace) -> dict[str, Floats]:
    """The same per step, [steps]; the steps of a prefill call share its time equally."""
    share = 1 / np.maximum(trace.calls["steps"], 1)
    return {name: (value * share)[trace.call] for name, value in parts_of_calls(trace).items()}


def parts_of_layers(trace: Trace, call: int) -> dict[str, Floats] | None:
    """Milliseconds of each of `LAYER_PARTS` in one call, [layers]; None if not recorded."""
    if not len(trace.layer_us):
        return None
    return {name: trace.layer_us[call, :, i] / 1e3 for i, name in enumerate(LAYER_PARTS)}
