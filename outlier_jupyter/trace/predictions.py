"""What the model found likely: a trace's log-probabilities, ranks, entropies and alternatives.

Row by row while they are recorded, one array per field in a trace and its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..events import Predicted
from .validate import check_floats, check_numbers, check_shape

if TYPE_CHECKING:
    from .trace import Trace

Arrays = dict[str, npt.NDArray[Any]]

FIELDS = {
    "logprobs": "logprob",
    "ranks": "rank",
    "entropies": "entropy",
    "alternatives": "alternatives",
    "alternative_logprobs": "alternative_logprobs",
}
"""Array of a trace → field of a row of `Predicted`."""
MOST_ALTERNATIVES = 100
"""The most alternatives per token, as of the option."""
ROUNDING = 0.01
"""A log-probability may be above 0 by this: the difference of two rounded numbers."""


def unpredicted(rows: int, width: int) -> npt.NDArray[np.int32]:
    """`Predicted.numbers` of steps after which nothing was predicted: [rows, width]."""
    numbers = np.zeros((rows, width), np.int32)
    empty = Predicted(numbers).rows
    for name in ("logprob", "entropy", "alternative_logprobs"):
        empty[name] = np.nan
    empty["alternatives"] = -1
    return numbers


def arrays_of(numbers: npt.NDArray[np.int32] | None) -> dict[str, Any]:
    """The fields of a `Trace` from `Predicted.numbers` of all steps; none that are empty."""
    if numbers is None or not len(numbers):
        return {}
    rows = Predicted(numbers).rows
    found = {name: np.ascontiguousarray(rows[field]) for name, field in FIELDS.items()}
    return {name: array for name, array in found.items() if array.size}


def recorded(trace: Trace) -> Arrays:
    """The trace's arrays that were recorded, for its file."""
    return {name: array for name in FIELDS if (array := getattr(trace, name)).size}


def validated(arrays: Mapping[str, npt.NDArray[Any]], steps: int) -> Arrays:
    """The fields of a `Trace` from a file's arrays; none that the file lacks.

    Raises:
        ValueError: arrays of another shape or type, or numbers that are no probabilities.
    """
    found = {name: arrays[name] for name in FIELDS if name in arrays and arrays[name].size}
    pair = found.keys() & {"alternatives", "alternative_logprobs"}
    if len(pair) == 1:
        raise ValueError("`alternatives` and `alternative_logprobs` are only valid together")
    for name, values in found.items():
        wide = name in pair
        if wide and (values.ndim != 2 or not 0 < values.shape[1] <= MOST_ALTERNATIVES):
            wanted = f"[steps, 1 to {MOST_ALTERNATIVES}]"
            raise ValueError(f"`{name}` is {list(values.shape)}: {wanted} expected")
        check_shape(name, values.shape, found["alternatives"].shape if wide else (steps,))
        if name in ("ranks", "alternatives"):
            check_numbers(name, values, 0 if name == "ranks" else -1, 2**31 - 1)
        else:
            _check_nats(name, values, sign=1 if name == "entropies" else -1)
    if pair:
        check_shape("alternatives", found["alternatives"].shape[:1], (steps,))
    return {
        name: values.astype(np.int32 if values.dtype.kind in "iub" else np.float32)
        for name, values in found.items()
    }


def _check_nats(name: str, values: npt.NDArray[Any], sign: int) -> None:
    """Raises ValueError: a number of the wrong sign; NaN is allowed."""
    check_floats(name, values)
    wrong = values[sign * values < -ROUNDING]
    if wrong.size:
        side = "0 or more" if sign > 0 else "0 or less"
        raise ValueError(f"`{name}` has {float(wrong[0]):.4g}: {side} expected")


def columns(trace: Trace) -> list[tuple[str, str, npt.NDArray[Any]]]:
    """The columns of the trace's rows per token, each with the array that it needs."""
    found = recorded(trace)
    out = [(FIELDS[name], "experts", array) for name, array in found.items() if array.ndim == 1]
    if "alternatives" in found:
        for i in range(trace.alternatives.shape[1]):
            for name in ("alternative", "alternative_logprob"):
                column = np.ascontiguousarray(found[f"{name}s"][:, i])
                out.append((f"{name}_{i + 1}", "experts", column))
    return out
