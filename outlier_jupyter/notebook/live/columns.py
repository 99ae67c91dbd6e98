"""Numbers per token that no frame carries: a page requests them once the run is over.

A page sends `{"type": "ask", "about": {"column": "entropy"}}` (of the router), or another name of
`RECORDED`, or the weight of one expert as `{"column": "weight", "layer": 3, "expert": 7}`. The
answer is one buffer: float32 [steps], little endian, NaN where a number was not recorded. A page
without a kernel finds the columns that need no question in the trait `info`, under `columns`.
"""

from __future__ import annotations

import base64
import warnings

import numpy as np
import numpy.typing as npt

from ...errors import OutlierError
from ...runs.run import Run
from ...trace import Trace
from ...trace.router_entropy import router_entropy
from ...trace.segments import KINDS

Column = npt.NDArray[np.float32]

NOT_OVER = "Python answers when the run is over."
NOT_RECORDED = "It was not recorded in this run."

RECORDED = ("surprise", "token_entropy", "segment")
"""The columns that not every run has; `info` says which are `recorded`."""


def is_column(about: object) -> bool:
    """Whether a page's question is one for a column."""
    return isinstance(about, dict) and "column" in about


def answer(run: Run | None, about: object) -> tuple[bytes, str]:
    """Answer a page's question for a column: the bytes of float32 [steps], and "".

    Without numbers it is no bytes, and the reason as a sentence. No question raises.
    """
    if run is None:
        return b"", NOT_OVER
    try:
        values = _column(run.trace, about)
    except OutlierError as error:
        return b"", f"{error}."
    if values is None:
        return b"", "This column is not known."
    if not len(values) or np.isnan(values).all():
        return b"", NOT_RECORDED
    return values.astype("<f4").tobytes(), ""


def embedded_columns(run: Run) -> dict[str, str]:
    """The columns for a page without a kernel, for its `info`: name → base64 of float32 [steps].

    Columns that were not recorded are absent.
    """
    found = {name: answer(run, {"column": name})[0] for name in ("entropy", *RECORDED)}
    return {name: base64.b64encode(values).decode() for name, values in found.items() if values}


def recorded(trace: Trace) -> list[str]:
    """What a finished run has that not every run has: columns, and `alternatives`."""
    found = [name for name in RECORDED if (values := _column(trace, {"column": name})) is not None
             and not np.isnan(values).all()]  # fmt: skip
    return [*found, "alternatives"] if trace.alternatives.size else found


def _column(trace: Trace, about: object) -> Column | None:
    match about:
        case {"column": "entropy"}:
            return mean_entropy(trace)
        case {"column": "surprise"}:
            return -trace.logprobs
        case {"column": "token_entropy"}:
            return trace.entropies
        case {"column": "segment"}:
            return kinds_shown(trace)
        case {"column": "weight", "layer": int(layer), "expert": int(expert)}:
            return expert_weight(trace, layer, expert)
    return None


def kinds_shown(trace: Trace) -> Column:
    """The code in `KINDS` of the token that each step produced, float32 [steps]; NaN: not known.

    Of a prompt's step it is the kind of the prompt's next token.
    """
    kinds = trace.kinds[1:].astype(np.float32)
    kinds[kinds >= len(KINDS)] = np.nan
    return kinds


def mean_entropy(trace: Trace) -> Column:
    """`router_entropy` of each token, in bits: the mean of its layers, float32 [steps]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a token without any number is NaN
        return np.asarray(np.nanmean(router_entropy(trace), axis=1), np.float32)


def expert_weight(trace: Trace, layer: int, expert: int) -> Column:
    """The weight of one expert for each token, float32 [steps]: 0 where it was not chosen.

    NaN where the token's weights of the layer were not recorded.
    """
    if not 0 <= layer < trace.layers:
        return np.full(trace.steps, np.nan, np.float32)
    weights = trace.weights[:, layer]
    chosen = np.where(trace.experts[:, layer] == expert, weights, np.float32(0))
    total = chosen.sum(axis=-1, dtype=np.float32)
    total[np.isnan(weights).all(axis=-1)] = np.nan
    return np.asarray(total, np.float32)
