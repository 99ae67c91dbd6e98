"""The live view's header shows during a run how much its output differs from the exact model's."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...events import Compared, Event
from ...formatting import percent, small
from .widget import LiveView

EVERY_S = 0.5
"""The least time between updates: the whole header is sent each time."""


class DivergenceLine:
    """A subscriber that updates the header of `view`.

    Args:
        clock: a monotonic clock in seconds.
    """

    KINDS: tuple[type[Event], ...] = (Compared,)
    """The events it subscribes to."""

    def __init__(self, view: LiveView, clock: Callable[[], float] = time.monotonic) -> None:
        self._view = view
        self._clock = clock
        self._why = str(view.info.get("changed_output", ""))
        self._due = clock()
        self._nats, self._same, self._tokens = 0.0, 0, 0

    def __call__(self, event: Event) -> None:
        """Receive one event."""
        if not isinstance(event, Compared):
            return
        self._nats += event.kl
        self._same += event.agrees
        self._tokens += 1
        if self._clock() >= self._due:
            self._due = self._clock() + EVERY_S
            self.show()

    def show(self) -> None:
        """Write the averages so far into the header, if the output is changed at all."""
        if not (self._tokens and self._why):
            return
        text = (
            f"KL {small(self._nats / self._tokens)} nats per token, top-1 agreement "
            f"{percent(self._same / self._tokens)}"
        )
        self._view.info = {**self._view.info, "changed_output": f"{self._why}; {text}"}
