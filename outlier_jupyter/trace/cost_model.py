"""What a token's time is made of, fitted from a trace's own calls: compute, and waiting for reads.

A decode call takes `compute` ns whatever is resident, `wait` ns more for each layer that has to
wait for at least one read, and `per_byte` ns for each byte read. The last two are found by holding
the layers of one call against each other: a machine is slower from one second to the next for
reasons of its own, and a long call is no sign of dear reads. Of each layer it is taken what passed
from its ids being known to the next layer's: computing is slower, too, after a wait, whose threads
have gone to sleep, and MLX computes a layer's experts when the next one's ids are asked for. The
first is what then is left of the mean call, so that the trace's own speed comes out as it was.
Prefill is not predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..events import DECODE
from ..formatting import percent
from .schema import LAYER_PARTS

if TYPE_CHECKING:
    from .trace import Trace

LEAST_CALLS = 4
"""With fewer decode calls nothing is fitted."""


@dataclass(frozen=True)
class Cost:
    """Nanoseconds: `compute` a call, `wait` a layer that waits, `per_byte` a byte. NaN: unknown.

    `residual` is how far off the fit is on the calls it was made from: the median over calls of
    |predicted − measured| ÷ measured time.
    """

    compute: float
    wait: float
    per_byte: float
    residual: float

    def tokens_per_second(self, tokens: int, stalls: float, nbytes: float) -> float:
        """For `tokens` decoded one by one, with so many waiting layers and bytes in all."""
        if not tokens:
            return float("nan")
        waited = self.wait * stalls + self.per_byte * nbytes if nbytes else 0.0
        total = tokens * self.compute + waited
        return 1e9 * tokens / total if total > 0 else float("nan")

    def __str__(self) -> str:
        """What a token costs, in words."""
        if np.isnan(self.compute):
            return "no times were recorded, so no speed is predicted"
        told = f"{self.compute / 1e6:.3g} ms of computing a token"
        if np.isnan(self.per_byte):
            return told + "; nothing was read in this trace, so reads are not predicted"
        speed = f"{1 / self.per_byte:.3g} GB/s" if self.per_byte else "any speed"
        return (
            f"{told}, {self.wait / 1e6:.3g} ms for each layer that waits, and reads at {speed}; "
            f"on its own calls it is off by {percent(self.residual)} (median)"
        )


def fit(trace: Trace) -> Cost:
    """The cost of a decode call, from the decode calls of `trace`."""
    calls = trace.calls
    decode = np.flatnonzero((calls["phase"] == DECODE) & (calls["steps"] == 1) & (calls["ns"] > 0))
    if len(decode) < LEAST_CALLS or not (trace.has("calls") and trace.has("reads")):
        return Cost(*4 * [float("nan")])
    took = calls["ns"][decode].astype(np.float64)
    nbytes = np.zeros((len(calls), max(trace.layers, 1)))
    np.add.at(
        nbytes, (trace.call[trace.reads["step"]], trace.reads["layer"]), trace.reads["nbytes"]
    )
    causes = np.stack([nbytes[decode] > 0, nbytes[decode]])
    waited = calls["read_wait_ns"][decode] + calls["install_ns"][decode]
    each = causes.sum(axis=2)
    prices = np.full(2, np.nan)
    if causes.any():
        spans = _spans(trace, decode)
        prices = _prices(causes if spans.shape[1] > 1 else each[:, :, None], spans)
        if not prices.any():  # all calls read alike: nothing to hold against each other
            prices = np.array([0.0, float(waited.sum() / each[1].sum())])
    explained = float(np.nan_to_num(prices) @ each.mean(axis=1))
    # What a call took beside its waiting was not waiting.
    most = float(took.mean() - np.min(took - waited))
    prices *= min(1.0, most / explained) if explained else 1.0
    predicted = took.mean() + np.nan_to_num(prices) @ (each - each.mean(axis=1, keepdims=True))
    compute = float(took.mean() - np.nan_to_num(prices) @ each.mean(axis=1))
    wait, per_byte = prices.tolist()
    return Cost(compute, wait, per_byte, float(np.median(np.abs(predicted - took) / took)))


def _spans(trace: Trace, calls: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Nanoseconds from each layer's ids to those of the next, or to the call's end.

    Returns:
        [calls, layers]; of a trace without times of layers [calls, 1], the whole call.
    """
    took = trace.calls["ns"][calls].astype(np.float64)
    if not len(trace.layer_us):
        return took[:, None]
    parts = 1e3 * trace.layer_us[calls]
    known = LAYER_PARTS.index("route") + 1
    until, after = parts[:, :, :known].sum(axis=2), parts[:, :, known:].sum(axis=2)
    rest = took - parts.sum(axis=(1, 2))
    return np.asarray(after + np.column_stack([until[:, 1:], rest]), np.float64)


def _prices(
    causes: npt.NDArray[np.float64], spans: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """How much more of a span there is for each unit of a cause: least squares, none negative.

    What a layer takes on average is no sign of its reads, and neither is what a call does.

    Args:
        causes: [causes, calls, layers]; spans: [calls, layers].
    """
    from scipy.optimize import nnls  # takes a moment: imported when something is fitted

    def apart(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found = values - values.mean(axis=-2, keepdims=True)
        if values.shape[-1] > 1:
            found = found - found.mean(axis=-1, keepdims=True)
        return np.asarray(found.reshape(*values.shape[:-2], -1), np.float64)

    scale = causes.max(axis=(1, 2), keepdims=True)
    prices, _ = nnls(apart(causes / scale).T, apart(spans))
    return np.asarray(prices / scale.ravel(), np.float64)
