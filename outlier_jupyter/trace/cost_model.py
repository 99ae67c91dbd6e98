"""Fits the cost of a decode call from a trace's own calls: compute, and waiting for reads.

A decode call takes `compute` ns, plus `wait` ns for each layer that waits for at least one read,
plus `per_byte` ns for each byte read. `wait` and `per_byte` are fitted within calls, layer against
layer: machines drift from one second to the next, so a long call does not mean expensive reads. A
layer's time runs from its ids being known to the next layer's. That includes the slower compute
after a wait, when threads have gone to sleep, and MLX computes a layer's experts only when the next
ids are read. `compute` is the rest of the mean call, so that the model reproduces the trace's own
speed. Prefill is not predicted.

`measured_cost` has the same three from the speeds of a measured machine, and nothing of the run but
its routing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import TraceError
from ..events import DECODE
from ..formatting import percent, size_words, three
from ..system.machine_speed import WAIT_S, MachineSpeed
from .schema import LAYER_PARTS

if TYPE_CHECKING:
    from .trace import Trace

LEAST_CALLS = 4
"""Nothing is fitted to fewer decode calls."""


@dataclass(frozen=True)
class Cost:
    """Nanoseconds per call, per layer that waits, and per byte read; NaN if unknown.

    `residual` is the error of the fit on its own calls: the median of |predicted − measured| over
    the measured time; NaN where nothing was fitted.
    """

    compute: float
    wait: float
    per_byte: float
    residual: float

    def tokens_per_second(self, tokens: int, stalls: float, nbytes: float) -> float:
        """Predicted speed of `tokens` single-token calls with `stalls` waits and `nbytes` read."""
        if not tokens:
            return float("nan")
        waited = self.wait * stalls + self.per_byte * nbytes if nbytes else 0.0
        total = tokens * self.compute + waited
        return 1e9 * tokens / total if total > 0 else float("nan")

    def __str__(self) -> str:
        """One sentence: the cost of a token."""
        if np.isnan(self.compute):
            return "no times of its own were recorded, so no speed is predicted"
        compute = f"{three(self.compute / 1e6)} ms of compute per token"
        if np.isnan(self.per_byte):
            return compute + "; this trace has no reads, so their cost is unknown"
        rate = f"{size_words(1e9 / self.per_byte)}/s, several at once" if self.per_byte else ""
        error = f"; median error on the trace's own calls {percent(self.residual)}"
        return (
            f"{compute}, {three(self.wait / 1e6)} ms for each layer that waits, and reads at "
            f"{rate or 'any speed'}{'' if np.isnan(self.residual) else error}"
        )


def fit(trace: Trace) -> Cost:
    """The cost of a decode call, fitted to the decode calls of `trace`, if they are its own."""
    calls = trace.calls
    decode = np.flatnonzero((calls["phase"] == DECODE) & (calls["steps"] == 1) & (calls["ns"] > 0))
    known = trace.has("calls") and trace.has("reads") and not trace.shared
    if len(decode) < LEAST_CALLS or not known:
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
        if not prices.any():  # no variation between layers: take the mean waiting time per byte
            prices = np.array([0.0, float(waited.sum() / each[1].sum())])
    explained = float(np.nan_to_num(prices) @ each.mean(axis=1))
    # Waiting cannot explain more than the fastest call leaves beside its own waiting.
    most = float(took.mean() - np.min(took - waited))
    prices *= min(1.0, most / explained) if explained else 1.0
    predicted = took.mean() + np.nan_to_num(prices) @ (each - each.mean(axis=1, keepdims=True))
    compute = float(took.mean() - np.nan_to_num(prices) @ each.mean(axis=1))
    wait, per_byte = prices.tolist()
    return Cost(compute, wait, per_byte, float(np.median(np.abs(predicted - took) / took)))


def measured_cost(trace: Trace, machine: MachineSpeed) -> tuple[Cost, float]:
    """The cost of a decoded token on a measured machine, and the experts' part of its compute.

    A token multiplies the weights that are not experts, and the experts that it chose, with
    compiled CPU kernels; see `system/machine_speed`.

    Returns:
        The cost, and nanoseconds.

    Raises:
        TraceError: the trace has not the size of the weights.
    """
    info = trace.info
    if not info.dense_nbytes or not info.expert_nbytes:
        raise TraceError(
            "this run does not have the size of its model's weights, so a measured machine's "
            "computing is unknown: record it again, or leave the machine out"
        )
    decoded = trace.experts[trace.phase == DECODE]
    chosen = (decoded >= 0).sum(axis=2) @ np.array(info.expert_nbytes, np.int64)
    experts = machine.multiply_s(float(chosen.mean()) if len(chosen) else 0.0)
    dense = machine.multiply_s(info.dense_nbytes - info.embedding_nbytes)
    compute = machine.overhead_s + dense + experts
    cost = Cost(1e9 * compute, 1e9 * WAIT_S, 1e9 * machine.read_s(1), float("nan"))
    return cost, 1e9 * experts


def _spans(trace: Trace, calls: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Nanoseconds from each layer's ids to those of the next, or to the call's end.

    Returns:
        [calls, layers]; [calls, 1], the whole call, if layers were not timed.
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
    """The time per unit of each cause: non-negative least squares.

    The means of each layer and each call are removed first, since they have other reasons.

    Args:
        causes: [causes, calls, layers].
        spans: [calls, layers].
    """
    from scipy.optimize import nnls  # slow to import

    def centred(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found = values - values.mean(axis=-2, keepdims=True)
        if values.shape[-1] > 1:
            found = found - found.mean(axis=-1, keepdims=True)
        return np.asarray(found.reshape(*values.shape[:-2], -1), np.float64)

    scale = causes.max(axis=(1, 2), keepdims=True)
    prices, _ = nnls(centred(causes / scale).T, centred(spans))
    return np.asarray(prices / scale.ravel(), np.float64)
