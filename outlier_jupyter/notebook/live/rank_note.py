"""The live view shows the ranks side by side: what each has in RAM, its hits and its reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ...engine.engine import Engine
from ...events import CallStarted, Event, PagedIn, RanksServed, RunDone, StepDone
from ...trace.rank_use import RankCounts
from .widget import LiveView

EVERY_S = 0.5
"""The least time between two updates."""


class RankNote:
    """A subscriber that counts what the ranks of `engine` do, and shows it in `view`."""

    KINDS: tuple[type[Event], ...] = (CallStarted, PagedIn, RanksServed, StepDone, RunDone)
    """The events it subscribes to."""

    def __init__(
        self, view: LiveView, engine: Engine, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._view, self._clock, self._due = view, clock, 0.0
        self._counts = RankCounts(engine.info)

    def __call__(self, event: Any) -> None:
        """Receive one event."""
        if not self._counts.uses:
            return
        if not isinstance(event, RunDone):
            self._counts(event)
        if isinstance(event, RunDone) or (
            isinstance(event, StepDone) and self._clock() >= self._due
        ):
            self._due = self._clock() + EVERY_S
            self._view.info = self._view.info | self._counts.shown()
