"""One machine's costs of a token: fitted to a run's own times, or by measured speeds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import OptionError
from ..events import DECODE
from ..system.machine_speed import MachineSpeed, kept_speed
from ..values import number, refused
from .cost_model import Cost, fit, measured_cost

if TYPE_CHECKING:
    from .trace import Trace

MEASURED = "measured"
"""This machine, as it was last measured."""


class MachineCosts(NamedTuple):
    """One machine's costs of a token; `experts_ns` of the compute are the experts'."""

    cost: Cost
    experts_ns: float
    rests_on: str
    more: str = ""

    def __str__(self) -> str:
        return f"one machine's costs, by {self.rests_on}: {self.cost}{self.more}"


def costs_of(trace: Trace, machine: object, disk_rate: float | None) -> MachineCosts:
    """What a token of the trace costs one machine; arguments are those of `what_if_hosts`.

    Raises:
        OptionError: no such machine, this one was not measured, or no rate of a disk.
        TraceError: a measured machine's computing needs the size of the weights.
    """
    if disk_rate is not None and not number("disk_rate", disk_rate) > 0:
        raise OptionError(f"disk_rate={disk_rate!r} cannot be used: give bytes a second")
    speed = _speed(machine)
    if speed is None:
        cost = fit(trace)
        own = trace.calls["experts_ns"][trace.calls["phase"] == DECODE]
        part = min(float(own.mean()), float(np.nan_to_num(cost.compute))) if len(own) else 0.0
        rests_on, more = "the run's own times", ""
    else:
        cost, part = measured_cost(trace, speed)
        rests_on = "a measured machine's speeds, not the run's times"
        more = f"; {speed.words()}; compiled CPU kernels, and the factors of plan's forecast"
    if disk_rate is not None:
        cost = replace(cost, per_byte=1e9 / disk_rate)
        more = " (the disk's rate was named)" + more
    return MachineCosts(cost, part, rests_on, more)


def _speed(machine: object) -> MachineSpeed | None:
    """The speeds that `machine` stands for.

    Raises:
        OptionError: it stands for none, or this machine was not measured.
    """
    if machine is None or isinstance(machine, MachineSpeed):
        return machine
    if not (isinstance(machine, str) and machine == MEASURED):
        raise refused("machine", machine, '"measured", or a MachineSpeed')
    found = kept_speed()
    if found is None:
        raise OptionError(
            "this machine was not measured: `%outlier plan MODEL --measure`, or "
            "plan(model, measure=True), does it in three seconds where models are computed on CPUs"
        )
    return found
