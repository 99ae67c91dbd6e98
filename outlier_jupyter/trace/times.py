"""Where each token's time went, in parts that add up to what was measured.

With compiled kernels a layer is computed where it stands, so dense parts and experts are measured
apart. With MLX's kernels its code builds a graph, which is computed when the next layer's ids are
asked for: there computing is one part, and nothing is evaluated early to divide it. A part that
cannot be told is NaN; so are all where a trace has no times. Whole-trace arrays, no loops.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .trace import LAYER_PARTS, Trace

PARTS = {
    "dense": "attention, norms, routers, the output head, and the Python around them",
    "experts": "the experts' matrices, and a shared expert where it was computed beside reads",
    "graph": "building the graph that MLX computes later, in Python",
    "compute": "what MLX computed until the routers' ids were known: dense parts, and the experts "
    "of the layer before, which cannot be told apart",
    "route": "reading the routers' ids back",
    "lookup": "who is in RAM, who leaves, and booking it",
    "read_wait": "waiting for experts from disk",
    "install": "putting what was read into its slots",
    "sample": "the sampler",
    "watch": "telling the recorder and the live view",
    "other": "what no part claims",
}
"""The parts of a token's time, and what they are."""
SAMPLE_OF_MLX = "the last layer's experts, the output head and the sampler"

Floats = npt.NDArray[np.float64]


def native(trace: Trace) -> bool:
    """Whether compiled kernels computed, each where it stands."""
    return trace.info.kernels == "cpu"


def meaning(trace: Trace, part: str) -> str:
    """What a part of this trace's times is."""
    return SAMPLE_OF_MLX if part == "sample" and not native(trace) else PARTS[part]


def parts_of_calls(trace: Trace) -> dict[str, Floats]:
    """Milliseconds of each part, [calls]; the NaN left out they add up to the call's time."""
    calls, unknown = trace.calls, np.full(len(trace.calls), np.nan)
    measured = ("route", "lookup", "read_wait", "install", "sample", "watch", "experts")
    column = {name: calls[f"{name}_ns"] / 1e6 for name in measured}
    outside = calls["outside_ns"] / 1e6
    told = calls["forward_ns"] > 0  # a trace of version 1 knows less
    out = dict.fromkeys(PARTS, unknown)
    out |= {name: column[name] for name in ("lookup", "read_wait", "install", "sample")}
    out["watch"] = np.where(told, column["watch"], np.nan)
    if native(trace):
        out["dense"] = np.where(told, outside, np.nan)
        out["experts"] = np.where(told, column["experts"], np.nan)
        out["route"] = column["route"]
    else:
        out["graph"] = np.where(told, outside + column["experts"], np.nan)
        out["compute"] = column["route"]
    claimed = np.nansum([value for name, value in out.items() if name != "other"], axis=0)
    out["other"] = np.maximum(calls["ns"] / 1e6 - claimed, 0)
    if not trace.has("calls"):
        return dict.fromkeys(PARTS, unknown)
    return out


def parts_of_tokens(trace: Trace) -> dict[str, Floats]:
    """The same of each step, [steps]: those of a prefill call share its time equally."""
    share = 1 / np.maximum(trace.calls["steps"], 1)
    return {name: (value * share)[trace.call] for name, value in parts_of_calls(trace).items()}


def parts_of_layers(trace: Trace, call: int) -> dict[str, Floats] | None:
    """Milliseconds of each of `LAYER_PARTS` in one call, [layers]; None if not recorded."""
    if not len(trace.layer_us):
        return None
    return {name: trace.layer_us[call, :, i] / 1e3 for i, name in enumerate(LAYER_PARTS)}
