"""A trace as rows, one per token, per token and layer, or per read, for pandas and Arrow.

pandas and pyarrow are imported when a table is made; in this room only here and in `what_if`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import TraceError
from ..values import one_of
from . import predictions
from .measures import bytes_per_step, hits_per_step
from .segments import kind_names, kinds_read
from .time_parts import parts_of_tokens

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from .trace import Trace

Columns = dict[str, npt.NDArray[Any]]

PHASES = np.array(["prefill", "decode"])


def token_columns(trace: Trace) -> Columns:
    """One row per token: the token, the one sampled after it, phase, call, ms, hits, misses, bytes.

    `kind` is that of the token read, if it was recorded.

    The tokens of a prefill call share its time equally; a read counts for the first token that
    chose its expert. If recorded, there follow `kl` (nats) and `agrees` (1 or 0), and of the token
    after this one the model's `logprob` (nats), `rank` and `entropy`, then `alternative_1`,
    `alternative_logprob_1` and so on, the likeliest first.
    """
    hits, misses = hits_per_step(trace)
    columns: list[tuple[str, str, npt.NDArray[Any]]] = [
        ("step", "experts", np.arange(trace.steps, dtype=np.int64)),
        ("token", "tokens", trace.tokens),
        ("produced", "produced", trace.produced),
        ("phase", "phase", PHASES[trace.phase]),
        *([("kind", "experts", kind_names(kinds_read(trace)))] if len(trace.kinds) else []),
        ("call", "calls", trace.call),
        ("ms", "calls", trace.step_ns / 1e6),
        ("hits", "hits", hits),
        ("misses", "hits", misses),
        ("reads", "reads", np.bincount(trace.reads["step"], minlength=trace.steps)),
        ("bytes", "reads", bytes_per_step(trace)),
    ]
    if len(trace.kl):
        agrees = np.where(np.isnan(trace.kl), np.nan, trace.agrees)
        columns += [("kl", "experts", trace.kl), ("agrees", "experts", agrees)]
    columns += predictions.columns(trace)
    return {name: column for name, source, column in columns if trace.has(source)}


def layer_columns(trace: Trace) -> Columns:
    """One row per token and layer: the experts in the router's order, their weights, their hits.

    -1 and NaN fill the columns of layers with fewer experts per token than the widest.
    """
    steps, layers, k = trace.experts.shape
    columns: Columns = {
        "step": np.repeat(np.arange(steps, dtype=np.int64), layers),
        "layer": np.tile(np.arange(layers, dtype=np.int64), steps),
    }
    if trace.has("phase"):
        columns["phase"] = np.repeat(PHASES[trace.phase], layers)
    if trace.has("hits"):
        lookups = trace.experts >= 0
        columns["hits"] = (trace.hits & lookups).sum(axis=2).ravel()
        columns["misses"] = lookups.sum(axis=2).ravel() - columns["hits"]
    for name in ("experts", "weights", "hits"):
        if trace.has(name):
            flat = getattr(trace, name).reshape(-1, k)
            columns |= {f"{name[:-1]}_{i}": np.ascontiguousarray(flat[:, i]) for i in range(k)}
    return columns


def read_columns(trace: Trace) -> Columns:
    """One row per expert read: its token and layer, bytes, start (since the first call), ms, rank.

    Raises:
        TraceError: the trace has no reads.
    """
    if not trace.has("reads"):
        raise TraceError("this trace has no reads: it was recorded elsewhere without them")
    reads = trace.reads
    begin = int(trace.calls["start_ns"][0]) if len(trace.calls) else 0
    return {
        "step": reads["step"],
        "layer": reads["layer"],
        "expert": reads["expert"],
        "bytes": reads["nbytes"],
        "start_ms": (reads["start_ns"] - begin) / 1e6,
        "ms": reads["ns"] / 1e6,
        "rank": reads["rank"],
    }


ROWS: dict[str, Callable[[Trace], Columns]] = {
    "tokens": token_columns,
    "layers": layer_columns,
    "reads": read_columns,
}


def _columns(trace: Trace, rows: str) -> Columns:
    columns = ROWS[one_of("rows", rows, ROWS)](trace)
    return {name: np.ascontiguousarray(column) for name, column in columns.items()}


def data_frame(trace: Trace, rows: str) -> pandas.DataFrame:
    """See `Trace.to_pandas`."""
    import pandas

    return pandas.DataFrame(_columns(trace, rows))


def times_frame(trace: Trace) -> pandas.DataFrame:
    """See `Trace.times`: step, token, phase, ms, then `<part>_ms`, NaN if not measured."""
    import pandas

    columns: Columns = {
        "step": np.arange(trace.steps, dtype=np.int64),
        "token": trace.tokens,
        "phase": PHASES[trace.phase],
        "ms": (trace.calls["ns"] / np.maximum(trace.calls["steps"], 1) / 1e6)[trace.call],
    }
    parts = {f"{name}_ms": value for name, value in parts_of_tokens(trace).items()}
    return pandas.DataFrame(columns | parts)


def arrow_table(trace: Trace, rows: str) -> pyarrow.Table:
    """See `Trace.to_arrow`."""
    try:
        import pyarrow
    except ImportError as error:
        raise TraceError(
            "Arrow tables need the package pyarrow: `pip install outlier-jupyter[arrow]`, or use "
            "to_pandas()"
        ) from error
    return pyarrow.table(_columns(trace, rows))
