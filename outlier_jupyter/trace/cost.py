"""What a token's time is made of, fitted from a trace's own calls: compute, and waiting for reads.

A decode call takes `compute` ns whatever is resident, `wait` ns more for each layer that has to
wait for at least one read, and `per_byte` ns for each byte read. The last two are the least squares
of what the calls spent on look-ups, waiting and installing, neither negative, with what a call
spends on look-ups when nothing is missing beside them. All else is computing. It takes longer in
calls that read, whose threads share the cores with it: that is counted to `wait`, by the line
through all calls, and what is left without a read is the first. Prefill is not predicted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..events import DECODE
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
            f"on its own calls it is off by {self.residual:.1%} (median)"
        )


def fit(trace: Trace) -> Cost:
    """The cost of a decode call, from the decode calls of `trace`."""
    calls = trace.calls
    decode = np.flatnonzero((calls["phase"] == DECODE) & (calls["steps"] == 1) & (calls["ns"] > 0))
    if len(decode) < LEAST_CALLS or not (trace.has("calls") and trace.has("reads")):
        return Cost(*4 * [float("nan")])
    took = calls["ns"][decode].astype(np.float64)
    paged = calls["lookup_ns"] + calls["read_wait_ns"] + calls["install_ns"]
    waited = paged[decode].astype(np.float64)
    nbytes = np.zeros(len(calls))
    np.add.at(nbytes, trace.call[trace.reads["step"]], trace.reads["nbytes"])
    stalled = np.zeros((len(calls), max(trace.layers, 1)), bool)
    stalled[trace.call[trace.reads["step"]], trace.reads["layer"]] = True
    causes = np.stack([stalled.sum(axis=1)[decode], nbytes[decode]], axis=1).astype(np.float64)
    wait, per_byte, always = _not_negative(causes, waited)
    # A line through means, not medians: a speed is a mean, and long calls belong to it.
    rest = took - waited + always
    slower = _slope(causes[:, 0], rest)
    compute = float(np.mean(rest) - slower * np.mean(causes[:, 0]))
    wait += slower
    predicted = compute + np.nan_to_num(causes @ np.array([wait, per_byte]))
    return Cost(compute, wait, per_byte, float(np.median(np.abs(predicted - took) / took)))


def _slope(cause: npt.NDArray[np.float64], effect: npt.NDArray[np.float64]) -> float:
    """How much more of the effect there is for each unit of the cause, by least squares.

    Not below 0, and so little that some of the effect is left where there is none of the cause.
    """
    apart = cause - cause.mean()
    spread = float(apart @ apart)
    if not spread:
        return 0.0
    most = float(effect.mean() / cause.mean())
    return min(max(float(apart @ effect) / spread, 0.0), most)


def _not_negative(causes: npt.NDArray[np.float64], waited: npt.NDArray[np.float64]) -> list[float]:
    """The least squares of two causes and a constant; without one that comes out negative.

    Returns:
        Per unit of each cause, NaN where there is none, and the constant.
    """
    if not causes.any():
        return [float("nan"), float("nan"), float(waited.mean())]
    scale = causes.max(axis=0) + (causes.max(axis=0) == 0)
    known = np.column_stack([causes / scale, np.ones(len(causes))])
    best = [0.0, 0.0, 0.0]
    error = np.inf
    for use in ([0, 1, 2], [0, 1], [0, 2], [1, 2], [0], [1]):
        found = np.zeros(3)
        found[use] = np.linalg.lstsq(known[:, use], waited, rcond=None)[0]
        off = float(np.square(known @ found - waited).sum())
        if (found >= 0).all() and off < error:
            error, best = off, [*(found[:2] / scale).tolist(), float(found[2])]
    return best
