"""Which experts a load reads before the first run, beside a progress bar."""

from __future__ import annotations

from typing import Protocol

from ..paging import Installed
from ..paging.preload import pin, warm
from ..residency import ExpertKey
from ..system.progress import Progress
from .engine import Engine
from .loads import loads
from .routing_history import Experts


class Advance(Protocol):
    """Called with the number of experts or layers read since its last call."""

    def __call__(self, count: int = 1) -> object: ...


def read_all_experts(engine: Engine) -> None:
    """Read every expert into `engine`, which must have a slot for each."""
    _read_all(engine._installed, quiet=True)


def fill(engine: Engine, pins: list[ExpertKey], earlier: Experts | None) -> None:
    """Preload pinned experts and those of earlier tokens, or all; a bar appears after a second."""
    earlier = engine.history.read() if earlier is None else earlier
    if pins or earlier is not None:
        with Progress(
            desc="experts read", unit="", delay=1, leave=False, disable=engine.options.quiet
        ) as bar:
            pin(engine._installed, pins, _advance(bar))
            if earlier is not None:
                warm(engine._installed, earlier, _advance(bar))
    if engine.options.resident:
        _read_all(engine._installed, engine.options.quiet)


def _read_all(installed: Installed, quiet: bool) -> None:
    """Read every expert into RAM; a progress bar appears after a second."""
    layers = len(installed.switches)
    with Progress(total=layers, desc="experts", delay=1, leave=False, disable=quiet) as bar:
        installed.load_all(_advance(bar))


def _advance(bar: Progress) -> Advance:
    def advance(count: int = 1) -> None:
        loads.check()
        bar.update(count)

    return advance
