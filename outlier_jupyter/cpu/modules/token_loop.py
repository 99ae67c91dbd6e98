"""Runs a token's native layers in compiled code, and serves in Python what that leaves to it."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..kernels import RUNNING, Experts
from ..kernels.kernel_chain import CHAIN_NUMBERS
from ..kernels.system_calls import clock_code
from ..kernels.token_loop import (
    AFTER,
    BEFORE,
    BEGIN,
    BESIDE,
    DONE,
    FAILED,
    GROUPS,
    INTERRUPTED,
    LAYER,
    LAYER_FIELDS,
    MOE,
    PAUSED,
    PYTHON,
    READING,
    RESIDENT,
    STAGE,
    submit_task,
    token_runner,
)

if TYPE_CHECKING:
    from .decoder_layer import LayerPlan

Kind: TypeAlias = tuple[Any, Any, int]
"""What layers that run together have in common: the pager's `TokenPaging`, the tap, and k."""

SLICE_NS = 20_000_000
"""How long compiled code runs before Python may handle a signal, between two layers."""


class TokenLoop:
    """The native layers of a model; those between two others' run without Python in between.

    Args:
        plans: in the model's order. They are referenced weakly, as they refer to this.
    """

    def __init__(self, plans: Sequence[LayerPlan]) -> None:
        self._plans = [weakref.ref(plan) for plan in plans]
        self._layers = np.zeros((len(plans), LAYER_FIELDS), np.int64)
        self._experts: list[weakref.ref[Experts] | None] = [None] * len(plans)
        self._progress = np.zeros(2, np.int64)
        for number, (plan, row) in enumerate(zip(plans, self._layers, strict=True)):
            plan.loop, plan.number = self, number
            row[BEFORE : BEFORE + CHAIN_NUMBERS] = plan.before.numbers
            row[MOE] = -1
            if plan.k:
                row[AFTER : AFTER + CHAIN_NUMBERS] = plan.after.numbers
                row[MOE] = plan.experts.layer
            if plan.beside is not None:
                row[BESIDE : BESIDE + CHAIN_NUMBERS] = plan.beside.numbers
        self._clock = clock_code()
        self._submit = submit_task()
        self._run = token_runner()

    def run(self, first: int, last: int, stage: int = BEGIN) -> None:
        """Run the layers from `first` to before `last`; with `ROUTED` only from its experts on.

        The layers' activations are where their chains read them.
        """
        plans = [plan for plan in (ref() for ref in self._plans[first:last]) if plan is not None]
        together: list[LayerPlan] = []
        kind = None
        for plan in plans:
            its = self._kind(plan) if plan.k else kind
            if together and its != kind:
                self._run_together(together, kind, stage)
                together, stage = [], BEGIN
            kind = its
            together.append(plan)
        self._run_together(together, kind, stage)

    def _run_together(self, plans: list[LayerPlan], kind: Kind | None, stage: int) -> None:
        """Run layers of a kind."""
        if kind is not None:
            _Together(self, plans, *kind, stage).run()
            return
        for plan in plans:
            if stage == BEGIN:
                plan.run_before()
            if plan.k:
                plan.run_experts()
            stage = BEGIN

    def _kind(self, plan: LayerPlan) -> Kind | None:
        """What layers that run together have in common; None if Python must serve this one."""
        switch = plan.experts
        paging = switch.token_paging
        if paging is None:
            return None
        row, experts = self._layers[plan.number], switch.inner.connected()
        known = self._experts[plan.number]
        if known is None or known() is not experts:
            row[GROUPS] = experts.groups(plan.normed, plan.outputs).numbers.ctypes.data
            self._experts[plan.number] = weakref.ref(experts)
        row[RESIDENT] = switch.resident
        return paging, switch.tap, plan.k


class _Together:
    """One token in layers that run together."""

    def __init__(
        self, loop: TokenLoop, plans: list[LayerPlan], paging: Any, tap: Any, k: int, stage: int
    ) -> None:
        self._loop, self._plans, self._paging = loop, plans, paging
        self._first, self._end = plans[0].number, plans[-1].number + 1
        self._progress = loop._progress
        self._progress[:] = self._first, stage
        self._reported = self._first
        self._tap, self._k, self._log = tap, k, tap.logs.of(k)

    def run(self) -> None:
        """Run all layers, and report what happened."""
        paged = self._paging.begin(self._k)
        rows, times, _ = self._log
        loop, stop = self._loop, self._paging.stop
        try:
            code = PAUSED
            while code != DONE:
                with RUNNING:
                    until = time.perf_counter_ns() + SLICE_NS
                    code = loop._run(
                        loop._layers, self._progress, self._end, paged, rows, times, stop, until,
                        loop._clock, loop._submit,
                    )  # fmt: skip
                if code not in (PAUSED, INTERRUPTED):
                    self._report()
                if code == FAILED:
                    self._read_again()
                elif code == PYTHON:
                    self._serve()
                else:
                    self._paging.check_running()
        except BaseException:
            self._report()
            if self._progress[STAGE] == READING:
                self._paging.complete(self._layer, self._log)
            raise

    @property
    def _layer(self) -> int:
        """The MoE number of the layer where the compiled code stands."""
        return int(self._loop._layers[self._progress[LAYER], MOE])

    def _report(self) -> None:
        """Report the layers that are done and not reported."""
        first, done = self._reported, int(self._progress[LAYER])
        self._reported = done
        fields = self._loop._layers[first:done, [MOE, RESIDENT]].tolist()
        paged = [layer for layer, resident in fields if layer >= 0 and not resident]
        self._tap.record_token(
            self._k, paged, [layer for layer, resident in fields if layer >= 0 and resident]
        )
        if paged:
            self._paging.report(paged, self._log)

    def _next(self) -> None:
        """Go on with the next layer: this one was completed, and reported, in Python."""
        self._progress[:] = self._progress[LAYER] + 1, BEGIN
        self._reported = int(self._progress[LAYER])

    def _serve(self) -> None:
        """Serve a layer's lookup in Python, unless its reads are only not known yet."""
        plan = self._plans[int(self._progress[LAYER]) - self._first]
        if not self._paging.find_sources(self._layer, plan.ids.tolist()):
            plan.run_experts()
            self._next()

    def _read_again(self) -> None:
        """Have threads read what the kernel did not, and compute the layer's experts."""
        plan, layer = self._plans[int(self._progress[LAYER]) - self._first], self._layer
        self._paging.complete(layer, self._log)
        plan.compute(self._paging.slots_of(layer, plan.ids))
        self._tap.record_token(self._k, [layer], [])
        self._next()
