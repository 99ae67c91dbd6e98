"""How a token's time is divided: the one home of its parts, their names, and their arithmetic.

The recorder books each call's times with `booked`, the live view divides them while a run goes on,
and `times()`, `explain`, report, static view and replays ask the same `divide`. With compiled
kernels a layer is computed where it stands, so dense parts and experts are measured apart. With
MLX's kernels its code builds a graph, which is computed when the next layer's ids are asked for:
there computing is one part, and nothing is evaluated early to divide it. A part that cannot be told
is NaN; so are all where a trace has no times. Whole-trace arrays, no loops.
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
    """A part of a token's time: what views call it, and what it is.

    Attributes:
        name: the same words in every view.
        means: a sentence about it; with MLX's kernels `means_of_mlx`, where that is something else.
        kernels: "cpu" or "mlx" where it exists with those only, "" where with both.
    """

    name: str
    means: str
    means_of_mlx: str = ""
    kernels: str = ""


PARTS = {
    "dense": Part(
        "dense compute",
        "attention, norms, routers, the output head, and the Python around them",
        kernels="cpu",
    ),
    "experts": Part(
        "expert compute",
        "the experts' matrices, and a shared expert where it was computed beside reads",
        kernels="cpu",
    ),
    "graph": Part(
        "building MLX's graph",
        "building the graph that MLX computes later, in Python",
        kernels="mlx",
    ),
    "compute": Part(
        "compute, undivided",
        "what MLX computed until the routers' ids were known: dense parts, and the experts "
        "of the layer before, which cannot be told apart",
        kernels="mlx",
    ),
    "route": Part("router read-back", "reading the routers' ids back", kernels="cpu"),
    "lookup": Part("look-up", "who is in RAM, who leaves, and booking it"),
    "read_wait": Part("waiting for reads", "waiting for experts from disk"),
    "install": Part("install", "putting what was read into its slots"),
    "sample": Part(
        "sampling",
        "the sampler",
        means_of_mlx="the last layer's experts, the output head and the sampler",
    ),
    "watch": Part("recording and showing", "telling the recorder and the live view"),
    "other": Part("other", "what no part claims"),
}
"""The parts of a token's time, in the order in which they are stacked and sent."""

TIMES = (
    *("ns", "route_ns", "lookup_ns", "read_wait_ns", "install_ns", "sample_ns", "forward_ns"),
    *("outside_ns", "experts_ns", "watch_ns"),
)
"""The fields of `CALL` that `booked` makes and `divide` takes."""

OF_CPU = {"dense": "outside_ns", "experts": "experts_ns", "route": "route_ns"}
OF_MLX = {"graph": "outside_ns", "compute": "route_ns"}
OF_BOTH = {"read_wait": "read_wait_ns", "install": "install_ns", "sample": "sample_ns",
           "watch": "watch_ns"}  # fmt: skip
"""Parts and what was measured of them; they claim a call's time in this order. Look-up does so
last: where no switch told how long it took, its time holds handing over reads, too."""
SINCE_2 = {"dense", "experts", "graph", "watch"}
"""Parts that a trace of version 1 does not know."""

Floats = npt.NDArray[np.float64]


def parts_with(kernels: str) -> list[str]:
    """Those of `PARTS` that can be told of a run with these kernels, in order."""
    cpu = "cpu" if kernels == "cpu" else "mlx"
    return [name for name, part in PARTS.items() if part.kernels in ("", cpu)]


def part_name(part: str) -> str:
    """What a part is called, in every view."""
    return PARTS[part].name


def layer_part_name(part: str, kernels: str) -> str:
    """What one of `LAYER_PARTS` is called, by the part of the token's time that it belongs to."""
    whole = part_name(part_of_layer(part, kernels))
    graph = {"before": "dense parts", "experts": "experts"}
    return whole if kernels == "cpu" or part not in graph else f"{whole}: {graph[part]}"


def part_of_layer(part: str, kernels: str) -> str:
    """Which of `PARTS` one of `LAYER_PARTS` belongs to."""
    of_mlx = {"before": "graph", "experts": "graph", "route": "compute"}
    return ({"before": "dense"} if kernels == "cpu" else of_mlx).get(part, part)


def meaning(part: str, kernels: str) -> str:
    """What a part is, in a run with these kernels."""
    told = PARTS[part]
    return told.means if kernels == "cpu" else told.means_of_mlx or told.means


def booked(
    done: StepDone,
    route: int,
    lookup: int,
    waited: int,
    install: int,
    served: tuple[int, int, int] | None,
) -> tuple[int, ...]:
    """One call's `TIMES`, in nanoseconds, from what its events told.

    Args:
        done: how it ended.
        route, lookup, waited, install: sums over its layers, of `Routed` and `Waited`.
        served: sums of `Served` over its switches: in all, experts, telling. None where none told.
    """
    if served is None:
        inside, experts, told = route + lookup + waited + install, 0, 0
    else:
        inside, experts, told = served
        # All of a switch that is nothing else: besides the look-up, booking who leaves.
        lookup = max(0, inside - route - waited - install - experts - told)
    outside = max(0, done.forward_ns - inside)
    return (
        *(done.ns, route, lookup, waited, install, done.sample_ns, done.forward_ns),
        *(outside, experts, told + done.report_ns),
    )


def divide(calls: npt.NDArray[np.void], kernels: str) -> Floats:
    """Milliseconds of each of `PARTS`: float64 [calls, parts], NaN where a part cannot be told.

    The others of a call add up to its `ns`: what no part claims is the last one, and of what was
    measured twice a part gets what is left of the call.

    Args:
        calls: structured, with the fields `TIMES`.
        kernels: "cpu" where compiled kernels computed, each where it stands.
    """
    out = np.full((len(calls), len(PARTS)), np.nan)
    known = calls["forward_ns"] > 0
    left = np.maximum(calls["ns"], 0)
    at = {name: column for column, name in enumerate(PARTS)}
    claims = OF_BOTH | (OF_CPU if kernels == "cpu" else OF_MLX) | {"lookup": "lookup_ns"}
    for name, field in claims.items():
        spent = np.clip(calls[field], 0, left)
        if field == "outside_ns" and kernels != "cpu":  # there the experts build a graph, too
            spent = np.clip(calls[field] + calls["experts_ns"], 0, left)
        if name in SINCE_2:
            spent = np.where(known, spent, 0)
        left = left - spent
        out[:, at[name]] = np.where(known, spent / 1e6, np.nan) if name in SINCE_2 else spent / 1e6
    out[:, at["other"]] = left / 1e6
    return out


def parts_of_calls(trace: Trace) -> dict[str, Floats]:
    """Milliseconds of each part, [calls]; the NaN left out they add up to the call's time."""
    table = divide(trace.calls, trace.info.kernels)
    if not trace.has("calls"):
        table[:] = np.nan
    return {name: table[:, column] for column, name in enumerate(PARTS)}


def parts_of_tokens(trace: Trace) -> dict[str, Floats]:
    """The same of each step, [steps]: those of a prefill call share its time equally."""
    share = 1 / np.maximum(trace.calls["steps"], 1)
    return {name: (value * share)[trace.call] for name, value in parts_of_calls(trace).items()}


def parts_of_layers(trace: Trace, call: int) -> dict[str, Floats] | None:
    """Milliseconds of each of `LAYER_PARTS` in one call, [layers]; None if not recorded."""
    if not len(trace.layer_us):
        return None
    return {name: trace.layer_us[call, :, i] / 1e3 for i, name in enumerate(LAYER_PARTS)}
