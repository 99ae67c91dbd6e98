"""Saves and loads traces: safetensors arrays with JSON metadata, versioned, written atomically.

The arrays that other programs may want (`experts`, `weights`, `phase`, `tokens`, and where recorded
`kinds`, `kl`, `agrees` and those of `predictions`) are plain tensors under their own names. The
bulky tables are packed: hits as bits; reads, evictions and calls column by column, see
`column_packing`. Everything is restored exactly except `weights`, which are stored as float16, to
one part in 2,048 (below 6e-5, to 6e-8).

A file with only some of the arrays, as other programs write, gives a trace whose `info.absent`
names the missing ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import TraceError, brief
from ..system import files
from . import predictions, rank_arrays
from .column_packing import Arrays, Columns, columns_of, deflate, inflate, length, table_of
from .metadata import foreign_info, info_of, run_of
from .schema import CALL, EVICTION, LAYER_PARTS, READ, TraceInfo
from .validate import (
    MOST_LAYERS,
    MOST_SPAN,
    check_calls,
    check_floats,
    check_ids,
    check_info,
    check_kinds,
    check_numbers,
    check_pairs,
    check_resident,
    check_shape,
    check_span,
)

if TYPE_CHECKING:
    from .trace import Trace

Fields = dict[str, Any]
"""The validated fields of a `Trace` by name."""
FORMAT = "outlier_jupyter.trace"
BROKEN = (
    AttributeError,
    KeyError,
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    RecursionError,
    MemoryError,
)
"""What Python and NumPy raise for a file with wrong contents."""
VERSION = 2
OLDER = ("1",)
"""Older versions that can be read. Arrays they lack are absent; parts of calls they lack are 0."""
SINCE_2 = ("calls.forward_ns", "calls.outside_ns", "calls.experts_ns", "calls.watch_ns")
LATER = {"calls": SINCE_2, "reads": ("reads.rank",)}
"""Columns that older files lack; their values are 0."""
TABLES = {"reads": READ, "evictions": EVICTION, "calls": CALL}
PLAIN = ("tokens", "produced", "phase", "experts", "weights", "resident_at_start")
"""Stored as tensors under their own names; `hits` and the `TABLES` are packed."""
PER_STEP = ("tokens", "produced", "phase")
MEASURED = ("kl", "agrees")
FEW_ROWS = 2**20
"""Rows that a table may have besides 16 for each choice: with `measure_loss` the reads of the
exact model are recorded, but not its choices."""
PATH_SHOWN, REASON_SHOWN = 100, 110
"""The most characters of a path and of a reason in an error message."""


def write(trace: Trace, path: str | os.PathLike[str], run: Mapping[str, object] | None) -> Path:
    """Write `trace` to `path`; an existing file is replaced only once the new one is complete.

    Args:
        run: the texts of the run, stored as JSON.

    Raises:
        TraceError: the file cannot be written; nothing has changed then.
    """
    to = Path(path)
    about = {
        "format": FORMAT,
        "version": str(VERSION),
        "info": json.dumps(asdict(trace.info)),
        "run": json.dumps(run),
        "shapes": json.dumps({"hits": list(trace.hits.shape)}),
    }
    try:
        data = save({name: np.ascontiguousarray(a) for name, a in _packed(trace).items()}, about)
    except (TypeError, ValueError) as error:
        raise TraceError(f"the trace cannot be stored in a file ({brief(error)})") from error
    return files.write(to, data, TraceError, "the trace")


def _packed(trace: Trace) -> Arrays:
    out: Arrays = {name: getattr(trace, name) for name in PLAIN}
    with np.errstate(over="ignore"):
        half = trace.weights.astype(np.float16)
    if not np.isinf(half).any():  # too large for float16: then all stay float32
        out["weights"] = half
    if len(trace.kl):
        out |= {"kl": trace.kl, "agrees": trace.agrees}
    out |= predictions.recorded(trace) | rank_arrays.packed(trace)
    if len(trace.kinds):
        out["kinds"] = trace.kinds
    out["hits"] = np.packbits(trace.hits)
    for table in TABLES:
        rows = getattr(trace, table)
        out |= {f"{table}.{column}": deflate(rows[column]) for column in rows.dtype.names}
    if trace.layer_us.size:
        out["layer_us"] = deflate(trace.layer_us.transpose(2, 1, 0).ravel())
    return {name: array for name, array in out.items() if trace.has(name.split(".")[0])}


def read(path: str | os.PathLike[str]) -> tuple[Fields, dict[str, Any] | None]:
    """The fields of the trace in a file, and the texts of its run (None without).

    Everything is checked, and declared sizes are checked before memory is allocated for them.

    Raises:
        TraceError: no such file, not a trace, truncated, inconsistent, or of an unknown version.
    """
    source = Path(path)
    name = str(source) if len(str(source)) <= PATH_SHOWN else "…" + str(source)[-PATH_SHOWN:]
    if not source.exists():
        raise TraceError(f"there is no file {name}: give the path of a saved trace")
    if not source.is_file():  # a folder, or a pipe, which would block
        raise TraceError(f"{name} is not a file: give the path of a saved trace")
    try:
        with safe_open(source, "np") as file:
            about = file.metadata() or {}
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
            _check_kind(about, shapes, name)
            arrays: Arrays = {key: file.get_tensor(key) for key in shapes if _known(key)}
    except (SafetensorError, OSError, ValueError, TypeError, MemoryError) as error:
        raise TraceError(
            f"{name} is not a complete safetensors file ({brief(error)}): it is something else or "
            "was truncated; give a file that Trace.save has written"
        ) from error
    try:
        return _trace(arrays, about)
    except BROKEN as error:
        reason = str(error)[:REASON_SHOWN] if type(error) is ValueError else brief(error)
        raise TraceError(
            f"{name} is not a valid trace ({reason}): it was changed or damaged; save it again"
        ) from error


def _known(name: str) -> bool:
    """Whether an array is part of a trace; others, which may be large, are not read.

    Older versions wrote a table `early` of reads begun before a router had chosen.
    """
    if name in (
        *PLAIN,
        "hits",
        "layer_us",
        "kinds",
        *MEASURED,
        *predictions.FIELDS,
        *rank_arrays.NAMES,
    ):
        return True
    table, _, column = name.partition(".")
    kind = TABLES.get(table)
    return kind is not None and column in (kind.names or ())


def _check_kind(about: Mapping[str, str], shapes: Mapping[str, Sequence[int]], path: str) -> None:
    """Raises TraceError: another kind of file, or an unknown version."""
    if about.get("format") == FORMAT:
        if about.get("version") not in (str(VERSION), *OLDER):
            raise TraceError(
                f"{path} is a trace of version {str(about.get('version'))[:20]}, and this program "
                f"reads up to version {VERSION}: install the outlier-jupyter that wrote it, or a "
                "newer one"
            )
    elif len(shapes.get("experts", ())) != 3:
        raise TraceError(
            f"{path} has no array `experts` of [tokens, layers, k]: it is a safetensors file, but "
            "not a trace; give a file that Trace.save has written"
        )


def _trace(arrays: Arrays, about: Mapping[str, str]) -> tuple[Fields, Any]:
    experts = arrays["experts"]
    if experts.ndim != 3:
        raise ValueError(f"`experts` is {list(experts.shape)}: [tokens, layers, k] expected")
    # An empty array can declare any length: only bytes of another array confirm the steps.
    bare = not any(name in arrays for name in PER_STEP)
    if (len(experts) > 0 and experts.size == 0 and bare) or experts.shape[1] > MOST_LAYERS:
        raise ValueError(f"`experts` is {list(experts.shape)}, the routing of no model")
    for name in arrays.keys() & {*PER_STEP, *MEASURED}:
        wanted = (0,) if name in MEASURED and not arrays[name].size else experts.shape[:1]
        check_shape(name, arrays[name].shape, wanted)
    if about.get("format") == FORMAT:
        info = info_of(json.loads(about["info"]))
        if "hits" in arrays:
            check_shape("shapes.hits", json.loads(about["shapes"])["hits"], experts.shape)
            check_shape("hits", arrays["hits"].shape, [-(-experts.size // 8)])
            bits = np.unpackbits(arrays["hits"], count=experts.size)
            arrays["hits"] = bits.astype(bool).reshape(experts.shape)
        return build(arrays, info), run_of(json.loads(about["run"]))
    return build(arrays, foreign_info(experts, about)), None


def build(arrays: Arrays, info: TraceInfo) -> Fields:
    """The fields of a trace; missing arrays get placeholder values and a name in `info.absent`.

    Raises:
        ValueError: arrays that do not fit each other or `info`.
    """
    experts, sizes = arrays["experts"], info.experts_per_layer
    steps, layers, k = experts.shape
    check_info(info, layers, k, experts.size)
    check_ids("experts", experts, sizes)
    experts = experts.astype(np.int16)
    whole: Arrays = {
        "tokens": np.full(steps, -1, np.int32),
        "produced": np.full(steps, -1, np.int32),
        "phase": np.ones(steps, np.uint8),
        "weights": np.full(experts.shape, np.nan, np.float32),
        "hits": np.zeros(experts.shape, bool),
        "resident_at_start": np.zeros((0, 2), np.int16),
    }
    absent = {name for name in whole if name not in arrays}
    for name in whole.keys() & arrays.keys():
        _check_plain(name, arrays[name], experts.shape, sizes)
        with np.errstate(over="ignore"):
            whole[name] = arrays[name].astype(whole[name].dtype)
    for name, kind in TABLES.items():
        columns = _columns(name, arrays, experts, info, whole["phase"])
        if columns is None:
            absent.add(name)
        whole[name] = table_of(kind, columns)
    if "calls" in absent:
        whole["calls"] = _one_call_a_step(whole["phase"])
    call = np.repeat(np.arange(len(whole["calls"]), dtype=np.int32), whole["calls"]["steps"])
    share = whole["calls"]["ns"] // np.maximum(whole["calls"]["steps"], 1)
    absent |= set(info.absent) & ({*PLAIN, "hits", *TABLES} - {"experts"})
    named = replace(info, absent=tuple(sorted(absent)))
    if "layer_us" in arrays:
        shape = (len(LAYER_PARTS), layers, len(whole["calls"]))
        times = inflate("layer_us", arrays["layer_us"], prod(shape))
        check_numbers("layer_us", times, -(2**31), 2**31 - 1)
        times = times.reshape(shape).transpose(2, 1, 0)
        whole["layer_us"] = np.ascontiguousarray(times, np.int32)
    if "kinds" in arrays:
        check_kinds(arrays["kinds"], steps)
        whole["kinds"] = arrays["kinds"].astype(np.uint8)
    if "kl" in arrays:
        check_floats("kl", arrays["kl"])
        agrees = arrays.get("agrees", np.zeros(len(arrays["kl"]), bool))
        check_numbers("agrees", agrees, 0, 1)
        check_shape("agrees", agrees.shape, arrays["kl"].shape)
        whole["kl"], whole["agrees"] = arrays["kl"].astype(np.float32), agrees.astype(np.bool_)
    whole |= predictions.validated(arrays, steps)
    whole |= rank_arrays.validated(arrays, info, len(whole["calls"]))
    return {"experts": experts, "call": call, "step_ns": share[call], "info": named, **whole}


def _check_plain(
    name: str, values: npt.NDArray[Any], shape: tuple[int, ...], sizes: Sequence[int]
) -> None:
    """Raises ValueError: a plain array that does not fit `experts`."""
    if name == "resident_at_start":
        check_resident(values, sizes)
        return
    check_shape(name, values.shape, shape if name in ("weights", "hits") else shape[:1])
    if name == "weights":
        check_floats(name, values)
    else:
        check_numbers(name, values, *{"phase": (0, 1), "hits": (0, 1)}.get(name, (-1, 2**31 - 1)))


def _columns(
    table: str, arrays: Arrays, experts: npt.NDArray[Any], info: TraceInfo, phase: Any
) -> Columns | None:
    """A packed table's validated columns; None if one is missing.

    Raises:
        ValueError: columns that do not fit each other, the model or the steps.
    """
    kind, steps, sizes = TABLES[table], len(experts), info.experts_per_layer
    later, known = LATER.get(table, ()), arrays.get(f"{table}.start_ns")
    if later and known is not None and not arrays.keys() & set(later):
        zeros = deflate(np.zeros(length(f"{table}.start_ns", known), np.int64))
        arrays = arrays | dict.fromkeys(later, zeros)
    most = steps if table == "calls" else 16 * experts.size + FEW_ROWS
    columns = columns_of(table, kind, arrays, most)
    if columns is None:
        return None
    for name, values in columns.items():
        if name == "nbytes" or name.endswith("ns"):
            exact = name in ("nbytes", "ns")
            if name != "start_ns":
                check_span(f"{table}.{name}", values, 0 if exact else -MOST_SPAN)
            else:
                check_numbers(f"{table}.{name}", values, -(2**62), 2**62)
        elif name == "phase":
            check_numbers(f"{table}.{name}", values, 0, 1)
        elif name == "rank":
            check_numbers(f"{table}.{name}", values, 0, max(0, len(info.hosts) - 1))
        elif name == "step":
            check_numbers(f"{table}.{name}", values, 0, steps - 1)
    if table == "calls":
        check_calls(columns, phase)
    for by in ("", "by_") if table == "evictions" else ("",) if table != "calls" else ():
        names = (f"{table}.{by}layer", f"{table}.{by}expert")
        check_pairs(names, columns[f"{by}layer"], columns[f"{by}expert"], sizes)
    return columns


def _one_call_a_step(phase: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """Calls for a trace without them: one per token, of unknown time."""
    calls = np.zeros(len(phase), CALL)
    calls["phase"], calls["steps"] = phase, 1
    calls["first_step"] = np.arange(len(phase))
    return calls
