"""Validates a trace: shapes, types, and every number that is used as an index.

Compiled loops do not check their indices, so everything they read is checked here first: a file's
arrays before they become a `Trace`, and the routing of a `Trace` made in memory. A fault is a
`ValueError` that names the array; the caller adds the file or trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import TraceError

if TYPE_CHECKING:
    from .schema import TraceInfo
    from .trace import Trace

MOST_LAYERS, MOST_EXPERTS = 1024, 2**17
"""Limits of MoE layers, and of all experts (layers × the widest layer's): about four times the
largest known models, so that arrays of layers × experts always fit in memory."""
MOST_HOSTS = 64
"""Limit of ranks."""
MOST_SPAN = 2.0**60
"""Limit of sums of nanoseconds (36 years) and of bytes (an exabyte)."""

Arrays = Mapping[str, npt.NDArray[Any]]


def check_shape(name: str, shape: Sequence[int], wanted: Sequence[int]) -> None:
    """Raises ValueError: an array of another shape than `wanted`."""
    if list(shape) != list(wanted):
        raise ValueError(f"`{name}` is {list(shape)}: {list(wanted)} expected")


def check_numbers(name: str, values: npt.NDArray[Any], low: int, high: int) -> None:
    """Raises ValueError: not integers, or one outside `low` to `high`, inclusive."""
    if values.dtype.kind not in "iub":
        raise ValueError(f"`{name}` is {values.dtype}: integers expected")
    if values.size:
        least, most = int(values.min()), int(values.max())
        if least < low or most > high:
            seen = least if least < low else most
            raise ValueError(f"`{name}` has {seen}: {low} to {high} expected")


def check_floats(name: str, values: npt.NDArray[Any]) -> None:
    """Raises ValueError: not floating-point numbers; NaN is allowed."""
    if values.dtype.kind != "f":
        raise ValueError(f"`{name}` is {values.dtype}: floating-point numbers expected")


def check_sizes(layers: int, k: int, sizes: Sequence[int]) -> None:
    """Raises ValueError: another number of layers than sizes, or too many experts."""
    if len(sizes) != layers:
        raise ValueError(f"`experts` has {layers} layers, and `experts_per_layer` {len(sizes)}")
    widest = max(sizes, default=0)
    if layers > MOST_LAYERS or layers * widest > MOST_EXPERTS:
        raise ValueError(
            f"{layers:,} layers of up to {widest:,} experts are more than the limits of "
            f"{MOST_LAYERS:,} layers and {MOST_EXPERTS:,} experts in all"
        )
    if layers and min(sizes) < 1:
        raise ValueError("`experts_per_layer` has a layer without experts")
    if layers and k > widest:
        raise ValueError(f"`experts` has {k} choices per token, but layers have {widest} experts")


def check_ids(name: str, ids: npt.NDArray[Any], sizes: Sequence[int]) -> None:
    """Check chosen experts: [steps, layers, k], -1 for none.

    Raises:
        ValueError: an id that its layer does not have.
    """
    if ids.dtype.kind not in "iu":
        raise ValueError(f"`{name}` is {ids.dtype}: integers expected")
    if not ids.size:
        return
    if (least := int(ids.min())) < -1:
        raise ValueError(f"`{name}` has {least}: an expert's id, or -1 for none, expected")
    over = np.flatnonzero(ids.max(axis=(0, 2)).astype(np.int64) >= np.asarray(sizes))
    if len(over):
        layer = int(over[0])
        raise ValueError(
            f"`{name}` has expert {int(ids[:, layer].max())} in layer {layer}, which has "
            f"{sizes[layer]}, counted from 0"
        )


def check_pairs(
    names: tuple[str, str],
    layers: npt.NDArray[Any],
    experts: npt.NDArray[Any],
    sizes: Sequence[int],
) -> None:
    """Check columns of (layer, expert) pairs.

    Raises:
        ValueError: a pair that the model does not have.
    """
    check_numbers(names[0], layers, 0, len(sizes) - 1)
    check_numbers(names[1], experts, 0, max(sizes, default=0) - 1)
    if not len(layers):
        return
    over = np.flatnonzero(experts >= np.asarray(sizes, np.int64)[layers])
    if len(over):
        layer, expert = int(layers[over[0]]), int(experts[over[0]])
        raise ValueError(
            f"`{names[1]}` is {expert} where `{names[0]}` is {layer}: that layer has "
            f"{sizes[layer]} experts, counted from 0"
        )


def check_resident(pairs: npt.NDArray[Any], sizes: Sequence[int]) -> None:
    """`resident_at_start`, [n, 2].

    Raises:
        ValueError: another shape, a pair that the model does not have, or one that is there twice.
    """
    name = "resident_at_start"
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"`{name}` is {list(pairs.shape)}, and [n, 2] was wanted")
    check_pairs((name, name), pairs[:, 0], pairs[:, 1], sizes)
    if len(np.unique(pairs, axis=0)) != len(pairs):
        raise ValueError(f"`{name}` names an expert twice")


def check_kinds(kinds: npt.NDArray[Any], steps: int) -> None:
    """Check the kinds of a sequence's tokens; codes that are not known are of later versions.

    Raises:
        ValueError: neither empty nor one for each step and one more, or no codes.
    """
    if kinds.shape != (0,):
        check_shape("kinds", kinds.shape, [steps + 1])
    check_numbers("kinds", kinds, 0, 255)


def check_span(name: str, values: npt.NDArray[np.int64], low: float = -MOST_SPAN) -> None:
    """Check nanoseconds or bytes, which are summed.

    Raises:
        ValueError: one below `low`, or a sum that could overflow 64 bits.
    """
    if not len(values):
        return
    if (least := int(values.min())) < low:
        raise ValueError(f"`{name}` has {least}: {low:g} or more expected")
    if float(np.abs(values.astype(np.float64)).sum()) >= MOST_SPAN:
        raise ValueError(f"the sum of `{name}` is too large")


def check_calls(calls: npt.NDArray[np.void] | Arrays, phase: npt.NDArray[Any]) -> None:
    """Check that the calls cover the steps in order.

    Raises:
        ValueError: calls that overlap, leave steps out, or differ from their steps' phase.
    """
    steps, first = np.asarray(calls["steps"]), np.asarray(calls["first_step"])
    check_numbers("calls.steps", steps, 1, len(phase))
    if int(steps.sum(dtype=np.int64)) != len(phase):
        total = int(steps.sum(dtype=np.int64))
        raise ValueError(f"`calls.steps` adds up to {total}, but the trace has {len(phase)} steps")
    if (first != np.cumsum(steps, dtype=np.int64) - steps).any():
        raise ValueError("`calls.first_step` is not where the previous call ends")
    if (np.repeat(calls["phase"], steps) != phase).any():
        raise ValueError("`calls.phase` differs from `phase`")


def check_info(info: TraceInfo, layers: int, k: int, choices: int) -> None:
    """Check a file's metadata.

    Raises:
        ValueError: a value of the wrong type, or one that does not fit the arrays.
    """
    defaults = type(info)()
    for spec in fields(info):
        value = getattr(info, spec.name)
        kind = int if spec.name == "native_top_k" else type(getattr(defaults, spec.name))
        if spec.name == "native_top_k" and value is None:
            continue
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"`{spec.name}` is {_short(value)}: {kind.__name__} expected")
    for name in ("layer_names", "absent", "hosts"):
        if not all(isinstance(word, str) for word in getattr(info, name)):
            raise ValueError(f"`{name}` has a value that is not text")
    for name, high in (
        ("experts_per_layer", 2**15 - 1),
        ("expert_nbytes", 2**40),
        ("banks", 2**15),
    ):
        values = getattr(info, name)
        if not all(type(n) is int and 0 <= n <= high for n in values):
            raise ValueError(f"`{name}` has a value that is not an integer up to {high:,}")
        if len(values) not in ((0, layers) if name != "experts_per_layer" else (layers,)):
            raise ValueError(f"`{name}` has {len(values)} layers, but `experts` has {layers}")
    check_sizes(layers, k, info.experts_per_layer)
    if len(info.hosts) > MOST_HOSTS:
        raise ValueError(f"`hosts` names {len(info.hosts):,}: at most {MOST_HOSTS} expected")
    if info.layer_names and len(info.layer_names) != layers:
        raise ValueError(f"`layer_names` names {len(info.layer_names)} layers of {layers}")
    for name, most in (("slots", 2**31), ("dense_nbytes", 2**50), ("native_top_k", 2**15),
                       ("embedding_nbytes", info.dense_nbytes), ("width", 2**31)):  # fmt: skip
        if not 0 <= (getattr(info, name) or 0) <= most:
            raise ValueError(f"`{name}` is {_short(getattr(info, name))}: 0 to {most:,} expected")
    for name in ("disk_rate", "memory_rate"):
        if not (isfinite(rate := getattr(info, name)) and 0 <= rate < 1e18):
            raise ValueError(f"`{name}` is {_short(rate)}: bytes a second expected")
    if choices * max(info.expert_nbytes, default=0) >= MOST_SPAN:
        raise ValueError("the sum of `expert_nbytes` is too large")


def _short(value: object) -> str:
    """The beginning of a value's `repr`."""
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def check_routing(trace: Trace) -> None:
    """Check everything that compiled loops read of a trace.

    Raises:
        TraceError: an inconsistency that would make them read or write out of bounds.
    """
    try:
        experts, sizes = trace.experts, trace.info.experts_per_layer
        if experts.ndim != 3:
            raise ValueError(f"`experts` is {list(experts.shape)}: [steps, layers, k] expected")
        check_sizes(trace.layers, experts.shape[2], sizes)
        check_ids("experts", experts, sizes)
        check_shape("experts", experts.shape[:1], trace.tokens.shape)
        check_shape("phase", trace.phase.shape, trace.tokens.shape)
        check_shape("weights", trace.weights.shape, experts.shape)
        check_resident(trace.resident_at_start, sizes)
        for name in ("banks", "expert_nbytes"):
            if len(getattr(trace.info, name)) not in (0, trace.layers):
                raise ValueError(f"`{name}` does not have {trace.layers} layers")
    except ValueError as error:
        raise TraceError(f"this trace is not valid: {error}") from error
