"""Traces of a routing on a simulated machine with known costs, for tests of fits to them."""

from __future__ import annotations

import numpy as np

from outlier_jupyter.residency.replay import RecordedRouting, simulate
from outlier_jupyter.trace import CALL, EVICTION, READ, Trace, TraceInfo
from outlier_jupyter.trace.schema import LAYER_PARTS

NBYTES, COMPUTE, WAIT, PER_BYTE = 1_000_000, 20_000_000, 90_000, 0.4
"""Bytes of an expert; nanoseconds per token, per waiting layer and per byte."""


def timed_trace(routing: RecordedRouting, slots: int = 250, slowing: float = 0.0) -> Trace:
    """Decode of `routing`, one token per call, on a machine whose compute time varies by 1 %.

    Args:
        slowing: nanoseconds that each read of a call adds to the compute of all its layers, as on
            a machine that is busy then. If given, times of layers are recorded as well.
    """
    outcome = simulate(routing, "predictive", slots)
    rng = np.random.default_rng(0)
    steps, layers, _ = routing.experts.shape
    step, layer = np.nonzero(outcome.reads)
    step, layer = (np.repeat(a, outcome.reads[step, layer]) for a in (step, layer))
    reads = np.zeros(len(step), READ)
    reads["step"], reads["layer"], reads["nbytes"] = step, layer, NBYTES
    at, layer_of, choice = np.nonzero(~outcome.hits)
    reads["expert"] = routing.experts[at, layer_of, choice]
    calls = np.zeros(steps, CALL)
    calls["phase"], calls["steps"], calls["first_step"] = 1, 1, np.arange(steps)
    waits = WAIT * (outcome.reads > 0).sum(axis=1) + PER_BYTE * NBYTES * outcome.reads.sum(axis=1)
    calls["read_wait_ns"] = waits
    computing = COMPUTE * (1 + 0.01 * rng.standard_normal(steps))
    computing += slowing * layers * outcome.reads.sum(axis=1)
    calls["ns"] = waits + computing
    layer_us = np.zeros((steps if slowing else 0, layers, len(LAYER_PARTS)), np.int32)
    if slowing:
        layer_us[:, :, LAYER_PARTS.index("before")] = computing[:, None] / layers / 1e3
        wait = WAIT * (outcome.reads > 0) + PER_BYTE * NBYTES * outcome.reads
        layer_us[:, :, LAYER_PARTS.index("read_wait")] = wait / 1e3
    return Trace(
        tokens=np.zeros(steps, np.int32),
        produced=np.zeros(steps, np.int32),
        phase=np.ones(steps, np.uint8),
        call=np.arange(steps, dtype=np.int32),
        step_ns=calls["ns"].copy(),
        experts=routing.experts,
        weights=np.full(routing.experts.shape, np.nan, np.float32),
        hits=outcome.hits,
        reads=reads,
        evictions=np.zeros(0, EVICTION),
        calls=calls,
        resident_at_start=np.zeros((0, 2), np.int16),
        info=TraceInfo(
            experts_per_layer=routing.experts_per_layer,
            expert_nbytes=(NBYTES,) * layers,
            layer_names=tuple(map(str, range(layers))),
            slots=slots,
            policy="predictive",
        ),
        layer_us=layer_us,
    )
