"""A trace as a file: safetensors arrays and JSON beside them, versioned, written all or nothing.

The arrays that other programs may want (`experts`, `weights`, `phase`, `tokens`) are plain tensors
under their own names, as are `kl` and `agrees` where they were measured. What is bulky and regular
(hits, reads, evictions, calls) is packed: hits as bits, tables column by column in the narrowest
integers, deflated. Everything comes back exactly, but for `weights`: they are kept as float16, to
one part in 2,048 (below 6e-5, to 6e-8).

A file that has only some of the arrays, as traces from other programs do, gives a trace that says
which are absent.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import TraceError, brief
from .trace import CALL, EARLY, EVICTION, LAYER_PARTS, READ, Trace, TraceInfo
from .validate import (
    MOST_LAYERS,
    check_calls,
    check_floats,
    check_ids,
    check_info,
    check_numbers,
    check_pairs,
    check_resident,
    check_shape,
    check_span,
)

FORMAT = "outlier_jupyter.trace"
BROKEN = (
    AttributeError,
    KeyError,
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    RecursionError,
)
"""What Python and NumPy raise of a file that says something else than it must."""
VERSION = 2
OLDER = ("1",)
"""Versions that are read as well; what they lack is absent or, of the calls' parts, 0."""
SINCE_2 = ("forward_ns", "outside_ns", "experts_ns", "watch_ns")
TABLES = {"reads": READ, "evictions": EVICTION, "calls": CALL}
IF_ANY = {"early": EARLY}
"""Tables that are left out where they are empty, and by programs that know nothing of them."""
PAIRS = (("layer", "expert"), ("by_layer", "by_expert"))
"""Columns that name an expert."""
MOST_EARLY = 8
"""At most so many experts are read early for each one that is chosen."""
PLAIN = ("tokens", "produced", "phase", "experts", "weights", "resident_at_start")
"""Stored as tensors under their own names; `hits` and the `TABLES` are packed."""

Arrays = dict[str, npt.NDArray[Any]]


def write(trace: Trace, path: str | os.PathLike[str], run: Mapping[str, object] | None) -> Path:
    """Write `trace` to `path`; what was there before stays until the new file is whole.

    Args:
        run: what else is kept, as JSON: the texts of the run.

    Raises:
        TraceError: it cannot be written there; nothing has changed then.
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
        _replace(to, data)
    except (OSError, TypeError, ValueError) as error:
        raise TraceError(
            f"the trace could not be written to {to} ({error}): nothing changed there; give a path "
            "that can be written, with room for it"
        ) from error
    return to


def _replace(to: Path, data: bytes) -> None:
    """Write beside, then rename: a full disk or a crash leaves the old file."""
    handle, name = tempfile.mkstemp(prefix=f".{to.name}.", dir=to.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(to)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _packed(trace: Trace) -> Arrays:
    out: Arrays = {name: getattr(trace, name) for name in PLAIN}
    with np.errstate(over="ignore"):
        half = trace.weights.astype(np.float16)
    if not np.isinf(half).any():  # else a weight is too large for it: all of them are kept as is
        out["weights"] = half
    if len(trace.kl):
        out |= {"kl": trace.kl, "agrees": trace.agrees}
    out["hits"] = np.packbits(trace.hits)
    for table in [*TABLES, *(name for name in IF_ANY if len(getattr(trace, name)))]:
        rows = getattr(trace, table)
        for column in rows.dtype.names or ():
            out[f"{table}.{column}"] = _deflate(rows[column])
    if trace.layer_us.size:
        out["layer_us"] = _deflate(trace.layer_us.transpose(2, 1, 0).ravel())
    return {name: array for name, array in out.items() if trace.has(name.split(".")[0])}


def _deflate(column: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A column of integers as bytes: its length, its first value, and the deflated differences.

    Differences, in the narrowest integers and with the bytes of equal weight side by side, because
    steps, layers and start times hardly change from row to row.
    """
    values = column.astype(np.int64)
    steps = np.diff(values, prepend=0)
    size = next(n for n in (1, 2, 4, 8) if _fits(steps, n))
    planes = steps.astype(f"<i{size}").view(np.uint8).reshape(-1, size).T
    head = np.array([len(values), size], "<i8").tobytes()
    return np.frombuffer(head + zlib.compress(planes.tobytes(), 6), np.uint8)


def _fits(values: npt.NDArray[np.int64], size: int) -> bool:
    if not len(values):
        return True
    limit = np.iinfo(f"i{size}")
    return bool(limit.min <= values.min() and values.max() <= limit.max)


def _inflate(name: str, data: npt.NDArray[np.uint8], most: int) -> npt.NDArray[np.int64]:
    """A column of at most `most` numbers; nothing is unpacked before its length is known.

    Raises:
        ValueError: it is longer, or not what it says.
    """
    raw = data.tobytes()
    if len(raw) < 16:
        raise ValueError(f"`{name}` is cut short")
    count, size = np.frombuffer(raw[:16], "<i8").tolist()
    if not 0 <= count <= most or size not in (1, 2, 4, 8):
        raise ValueError(f"`{name}` says {count} numbers of {size} bytes, {most} at most can be")
    unpacked = zlib.decompressobj().decompress(raw[16:], size * count + 1)
    if len(unpacked) != size * count:
        raise ValueError(f"`{name}` does not hold the {count} numbers that it says")
    planes = np.frombuffer(unpacked, np.uint8).reshape(size, count)
    steps = np.ascontiguousarray(planes.T).view(f"<i{size}").ravel()
    return np.asarray(np.cumsum(steps, dtype=np.int64))


def read(path: str | os.PathLike[str]) -> tuple[Trace, dict[str, Any] | None]:
    """The trace in a file, and what else was kept of its run (None if nothing was).

    Raises:
        TraceError: no such file, not a trace, cut short, or of a version not known here.
    """
    place = Path(path)
    try:
        with safe_open(place, "np") as file:
            about = file.metadata() or {}
            arrays: Arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise TraceError(f"there is no file {place}: give the path of a saved trace") from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise TraceError(
            f"{place} is no whole safetensors file ({error}): it is something else or was cut "
            "short; give a file that Trace.save has written"
        ) from error
    try:
        return _trace(arrays, about, place)
    except (*BROKEN, zlib.error) as error:
        raise TraceError(
            f"{place} does not hold together as a trace ({brief(error)}): it was changed or "
            "damaged; save it again"
        ) from error


def _trace(arrays: Arrays, about: Mapping[str, str], place: Path) -> tuple[Trace, Any]:
    if about.get("format") == FORMAT:
        if about["version"] not in (str(VERSION), *OLDER):
            raise TraceError(
                f"{place} is a trace of version {about['version']}, and this program reads version "
                f"{VERSION}: install the outlier-jupyter that wrote it, or a newer one"
            )
        info = TraceInfo(**_known(json.loads(about["info"])))
        count = json.loads(about["shapes"])["hits"]
        if "hits" in arrays:
            check_shape("hits", count, arrays["experts"].shape)
            if arrays["hits"].dtype != np.uint8 or 8 * arrays["hits"].size < arrays["experts"].size:
                raise ValueError("`hits` is cut short")
            bits = np.unpackbits(arrays["hits"], count=arrays["experts"].size)
            arrays["hits"] = bits.astype(bool).reshape(count)
        return build(arrays, info), json.loads(about["run"])
    if "experts" not in arrays or arrays["experts"].ndim != 3:
        raise TraceError(
            f"{place} holds no array `experts` of [tokens, layers, k]: it is a safetensors file, "
            "but no trace; give a file that Trace.save has written"
        )
    return build(arrays, _foreign(arrays["experts"], about)), None


def _known(saved: dict[str, Any]) -> dict[str, Any]:
    """The fields of `TraceInfo` in what was saved, lists as the tuples they were."""
    names = {field.name for field in fields(TraceInfo)}
    known = {name: _tupled(value) for name, value in saved.items() if name in names}
    options = {name: _tupled(value) for name, value in saved.get("options", {}).items()}
    return known | {"options": options}


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _foreign(experts: npt.NDArray[Any], about: Mapping[str, str]) -> TraceInfo:
    """What another program's metadata says of its model."""
    layers = experts.shape[1]
    if layers > MOST_LAYERS:
        raise ValueError(f"`experts` has {layers:,} layers, more than any model has")
    width = int(about.get("num_experts", int(experts.max(initial=-1)) + 1))
    return TraceInfo(
        model=about.get("model", ""),
        layer_names=tuple(f"layer {layer}" for layer in range(layers)),
        experts_per_layer=(width,) * layers,
        native_top_k=int(about["top_k"]) if "top_k" in about else None,
        reader_note=f"recorded elsewhere: {about['source']}" if "source" in about else "",
    )


def build(arrays: Arrays, info: TraceInfo) -> Trace:
    """A trace of the arrays there are; the others hold nothing and are named in `info.absent`.

    Raises:
        ValueError: arrays that do not fit each other.
    """
    experts, sizes = _checked_experts(arrays["experts"], info), info.experts_per_layer
    steps = len(experts)
    whole: Arrays = {
        "tokens": np.full(steps, -1, np.int32),
        "produced": np.full(steps, -1, np.int32),
        "phase": np.ones(steps, np.uint8),
        "weights": np.full(experts.shape, np.nan, np.float32),
        "hits": np.zeros(experts.shape, bool),
        "resident_at_start": np.zeros((0, 2), np.int16),
    }
    absent = {name for name in whole if name not in arrays}
    for name, empty in whole.items():
        if name in arrays:
            _check_plain(name, arrays[name], empty, sizes)
            whole[name] = arrays[name].astype(empty.dtype)
    for name, kind in TABLES.items():
        columns = {column: arrays.get(f"{name}.{column}") for column in kind.names or ()}
        if name == "calls" and all(columns[column] is None for column in SINCE_2):
            none = _deflate(np.zeros(_length(columns["start_ns"], steps), np.int64))
            columns |= dict.fromkeys(SINCE_2, none if columns["start_ns"] is not None else None)
        if any(column is None for column in columns.values()):
            absent.add(name)
        whole[name] = _table(
            name,
            kind,
            {n: c for n, c in columns.items() if c is not None},
            steps,
            sizes,
            experts.size,
        )
    for name, kind in IF_ANY.items():
        given = {n: arrays[f"{name}.{n}"] for n in kind.names or () if f"{name}.{n}" in arrays}
        whole[name] = _table(name, kind, given, steps, sizes, MOST_EARLY * experts.size)
    if "calls" in absent:
        whole["calls"] = _one_call_a_step(whole["phase"])
    check_calls(whole["calls"], whole["phase"])
    call = np.repeat(np.arange(len(whole["calls"]), dtype=np.int32), whole["calls"]["steps"])
    if len(call) != steps:
        raise ValueError(f"the calls have {len(call)} steps, the trace has {steps}")
    share = whole["calls"]["ns"] // np.maximum(whole["calls"]["steps"], 1)
    absent |= set(info.absent)
    named = TraceInfo(**{f.name: getattr(info, f.name) for f in fields(info)}
                      | {"absent": tuple(sorted(absent))})  # fmt: skip
    if "layer_us" in arrays:
        shape = (len(LAYER_PARTS), experts.shape[1], len(whole["calls"]))
        times = (
            _inflate("layer_us", arrays["layer_us"], prod(shape)).reshape(shape).transpose(2, 1, 0)
        )
        whole["layer_us"] = np.ascontiguousarray(times, np.int32)
    for name, number in (("kl", np.float32), ("agrees", np.bool_)):
        whole[name] = arrays.get(name, np.zeros(0)).astype(number)
        if len(whole[name]) not in (0, steps):
            raise ValueError(f"{name} is of {len(whole[name])} steps, the trace has {steps}")
    return Trace(experts=experts, call=call, step_ns=share[call], info=named, **whole)


def _checked_experts(experts: npt.NDArray[Any], info: TraceInfo) -> npt.NDArray[np.int16]:
    """Raises ValueError: the choices are not what a model of `info` can choose."""
    if experts.ndim != 3:
        raise ValueError(f"`experts` is {list(experts.shape)}, and [steps, layers, k] was wanted")
    check_info(info, experts.shape[1], experts.shape[2], experts.size)
    check_ids("experts", experts, info.experts_per_layer)
    return experts.astype(np.int16)


def _check_plain(
    name: str, values: npt.NDArray[Any], empty: npt.NDArray[Any], sizes: Sequence[int]
) -> None:
    """Raises ValueError: an array stored under its own name is not what it must be."""
    if name == "resident_at_start":
        check_resident(values, sizes)
        return
    check_shape(name, values.shape, empty.shape)
    if name == "weights":
        check_floats(name, values)
    elif name == "phase":
        check_numbers(name, values, 0, 1)
    else:
        check_numbers(name, values, -1, 2**31 - 1)


def _length(column: npt.NDArray[Any] | None, most: int) -> int:
    """How many rows a packed column has."""
    return 0 if column is None else len(_inflate("calls.start_ns", column, most))


def _table(
    name: str,
    kind: np.dtype[np.void],
    columns: Mapping[str, Any],
    steps: int,
    sizes: Sequence[int],
    most: int,
) -> npt.NDArray[np.void]:
    """A table of `most` rows at most, every number in it checked.

    Raises:
        ValueError: a column that is not what it must be.
    """
    names = kind.names or ()
    if len(columns) < len(names):
        return np.zeros(0, kind)
    values = {n: _inflate(f"{name}.{n}", columns[n], most) for n in names}
    table = np.zeros(len(values[names[0]]), kind)
    for column in names:
        check_shape(f"{name}.{column}", values[column].shape, table.shape)
        if column == "start_ns":
            check_numbers(f"{name}.{column}", values[column], -(2**60), 2**60)
        elif column.endswith("ns") or column == "nbytes":
            check_span(f"{name}.{column}", values[column])
        elif column in ("step", "first_step"):
            check_numbers(f"{name}.{column}", values[column], 0, max(steps - 1, 0))
        elif column == "steps":
            check_numbers(f"{name}.{column}", values[column], 0, steps)
        elif column in ("phase", "used"):
            check_numbers(f"{name}.{column}", values[column], 0, 1)
    for layer, expert in PAIRS:
        if layer in values:
            both = (f"{name}.{layer}", f"{name}.{expert}")
            check_pairs(both, values[layer], values[expert], sizes)
    for column in names:
        table[column] = values[column]
    return table


def _one_call_a_step(phase: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """Where calls were not recorded, each token is taken for one, of unknown time."""
    calls = np.zeros(len(phase), CALL)
    calls["phase"], calls["steps"] = phase, 1
    calls["first_step"] = np.arange(len(phase))
    return calls
