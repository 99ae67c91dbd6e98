"""Whether a trace holds together: shapes, types, and every number that something is indexed by.

Compiled loops do not check their indices, so nothing reaches them that was not checked here: a
file's arrays before they become a `Trace`, and the routing of a `Trace` that was made in memory
before it is walked through. What is wrong is a `ValueError` that names the array; who calls says
which file or trace it was.
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
"""MoE layers, and experts of all of them (layers × those of the widest): some four times those of
the largest models there are. Counts of layers × experts are made without a thought of memory."""
MOST_SPAN = 2.0**60
"""Sums of nanoseconds and of bytes stay below this: 36 years, an exabyte."""

Arrays = Mapping[str, npt.NDArray[Any]]


def check_shape(name: str, shape: Sequence[int], wanted: Sequence[int]) -> None:
    """Raises ValueError: an array of another shape than `wanted`."""
    if list(shape) != list(wanted):
        raise ValueError(f"`{name}` is {list(shape)}, and {list(wanted)} was wanted")


def check_numbers(name: str, values: npt.NDArray[Any], low: int, high: int) -> None:
    """Raises ValueError: not whole numbers, or one outside `low` to `high`, both allowed."""
    if values.dtype.kind not in "iub":
        raise ValueError(f"`{name}` is {values.dtype}, and whole numbers were wanted")
    if values.size:
        least, most = int(values.min()), int(values.max())
        if least < low or most > high:
            seen = least if least < low else most
            raise ValueError(f"`{name}` holds {seen}, and {low} to {high} was wanted")


def check_floats(name: str, values: npt.NDArray[Any]) -> None:
    """Raises ValueError: not floating-point numbers. Any of them may be NaN."""
    if values.dtype.kind != "f":
        raise ValueError(f"`{name}` is {values.dtype}, and floating-point numbers were wanted")


def check_sizes(layers: int, k: int, sizes: Sequence[int]) -> None:
    """Raises ValueError: more or fewer layers than sizes, or more experts than there can be."""
    if len(sizes) != layers:
        raise ValueError(f"`experts` has {layers} layers, and `experts_per_layer` {len(sizes)}")
    widest = max(sizes, default=0)
    if layers > MOST_LAYERS or layers * widest > MOST_EXPERTS:
        raise ValueError(
            f"{layers:,} layers of up to {widest:,} experts are more than any model has "
            f"({MOST_LAYERS:,} layers, {MOST_EXPERTS:,} experts in all)"
        )
    if layers and min(sizes) < 1:
        raise ValueError("`experts_per_layer` has a layer without experts")
    if layers and k > widest:
        raise ValueError(f"`experts` has {k} choices a token, and layers have {widest} experts")


def check_ids(name: str, ids: npt.NDArray[Any], sizes: Sequence[int]) -> None:
    """The experts chosen: [steps, layers, k], -1 for none.

    Raises:
        ValueError: an id that its layer does not have.
    """
    if ids.dtype.kind not in "iu":
        raise ValueError(f"`{name}` is {ids.dtype}, and whole numbers were wanted")
    if not ids.size:
        return
    if (least := int(ids.min())) < -1:
        raise ValueError(f"`{name}` holds {least}, and an expert's id, or -1 for none, was wanted")
    over = np.flatnonzero(ids.max(axis=(0, 2)).astype(np.int64) >= np.asarray(sizes))
    if len(over):
        layer = int(over[0])
        raise ValueError(
            f"`{name}` holds expert {int(ids[:, layer].max())} in layer {layer}, which has "
            f"{sizes[layer]}, counted from 0"
        )


def check_pairs(
    names: tuple[str, str],
    layers: npt.NDArray[Any],
    experts: npt.NDArray[Any],
    sizes: Sequence[int],
) -> None:
    """Columns of (layer, expert) pairs.

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
            f"`{names[1]}` holds {expert} where `{names[0]}` is {layer}: that layer has "
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


def check_span(name: str, values: npt.NDArray[np.int64], low: float = -MOST_SPAN) -> None:
    """Nanoseconds or bytes, which are added up.

    Raises:
        ValueError: one below `low`, or so much that a sum of them is no 64-bit number.
    """
    if not len(values):
        return
    if (least := int(values.min())) < low:
        raise ValueError(f"`{name}` holds {least}, and {low:g} or more was wanted")
    if float(np.abs(values.astype(np.float64)).sum()) >= MOST_SPAN:
        raise ValueError(f"`{name}` adds up to more than can be")


def check_calls(calls: npt.NDArray[np.void] | Arrays, phase: npt.NDArray[Any]) -> None:
    """The calls, one after the other, are the steps.

    Raises:
        ValueError: they overlap, leave steps out, or are of another phase than their steps.
    """
    steps, first = np.asarray(calls["steps"]), np.asarray(calls["first_step"])
    check_numbers("calls.steps", steps, 1, len(phase))
    if int(steps.sum(dtype=np.int64)) != len(phase):
        total = int(steps.sum(dtype=np.int64))
        raise ValueError(f"`calls.steps` adds up to {total}, and the trace has {len(phase)} steps")
    if (first != np.cumsum(steps, dtype=np.int64) - steps).any():
        raise ValueError("`calls.first_step` is not where the call before ends")
    if (np.repeat(calls["phase"], steps) != phase).any():
        raise ValueError("`calls.phase` is another than `phase`")


def check_info(info: TraceInfo, layers: int, k: int, choices: int) -> None:
    """What a file says beside its arrays.

    Raises:
        ValueError: a value of another type, or one that does not fit the arrays.
    """
    defaults = type(info)()
    for spec in fields(info):
        value = getattr(info, spec.name)
        kind = int if spec.name == "native_top_k" else type(getattr(defaults, spec.name))
        if spec.name == "native_top_k" and value is None:
            continue
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"`{spec.name}` is {_short(value)}, and {kind.__name__} was wanted")
    for name in ("layer_names", "absent"):
        if not all(isinstance(word, str) for word in getattr(info, name)):
            raise ValueError(f"`{name}` holds something that is no text")
    for name, high in (
        ("experts_per_layer", 2**15 - 1),
        ("expert_nbytes", 2**40),
        ("banks", 2**15),
    ):
        values = getattr(info, name)
        if not all(type(n) is int and 0 <= n <= high for n in values):
            raise ValueError(f"`{name}` holds something else than whole numbers up to {high:,}")
        if len(values) not in ((0, layers) if name != "experts_per_layer" else (layers,)):
            raise ValueError(f"`{name}` is of {len(values)} layers, and `experts` of {layers}")
    check_sizes(layers, k, info.experts_per_layer)
    if info.layer_names and len(info.layer_names) != layers:
        raise ValueError(f"`layer_names` names {len(info.layer_names)} layers of {layers}")
    for name, most in (("slots", 2**31), ("dense_nbytes", 2**50), ("native_top_k", 2**15)):
        if not 0 <= (getattr(info, name) or 0) <= most:
            raise ValueError(f"`{name}` is {_short(getattr(info, name))}: 0 to {most:,} was wanted")
    for name in ("disk_rate", "memory_rate"):
        if not (isfinite(rate := getattr(info, name)) and 0 <= rate < 1e18):
            raise ValueError(f"`{name}` is {_short(rate)}, and bytes a second were wanted")
    if choices * max(info.expert_nbytes, default=0) >= MOST_SPAN:
        raise ValueError("`expert_nbytes` adds up to more than can be")


def _short(value: object) -> str:
    """A value as Python writes it, or its beginning."""
    said = repr(value)
    return said if len(said) <= 40 else said[:39] + "…"


def check_routing(trace: Trace) -> None:
    """What compiled loops read of a trace, whoever made it.

    Raises:
        TraceError: they would read or write beside their arrays.
    """
    try:
        experts, sizes = trace.experts, trace.info.experts_per_layer
        if experts.ndim != 3:
            raise ValueError(f"`experts` is {list(experts.shape)}: [steps, layers, k] was wanted")
        check_sizes(trace.layers, experts.shape[2], sizes)
        check_ids("experts", experts, sizes)
        check_shape("experts", experts.shape[:1], trace.tokens.shape)
        check_shape("phase", trace.phase.shape, trace.tokens.shape)
        check_shape("weights", trace.weights.shape, experts.shape)
        check_resident(trace.resident_at_start, sizes)
        for name in ("banks", "expert_nbytes"):
            if len(getattr(trace.info, name)) not in (0, trace.layers):
                raise ValueError(f"`{name}` is not of {trace.layers} layers")
    except ValueError as error:
        raise TraceError(f"this trace does not hold together: {error}") from error
