"""The line of a live view's header that tells how far a run is from the exact model, as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...events import Compared, Event
from ...formatting import percent, three
from .widget import LiveView

EVERY_S = 0.5
"""The header is sent again at most this often: it is sent whole."""


class LossLine:
    """A sink that keeps the header of `view` up to date; other events are passed over.

    Args:
        clock: seconds that never go back.
    """

    KINDS: tuple[type[Event], ...] = (Compared,)
    """The events that it needs to hear."""

    def __init__(self, view: LiveView, clock: Callable[[], float] = time.monotonic) -> None:
        self._view = view
        self._clock = clock
        self._why = str(view.info.get("changed_output", ""))
        self._due = clock()
        self._nats, self._same, self._tokens = 0.0, 0, 0

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if not isinstance(event, Compared):
            return
        self._nats += event.kl
        self._same += event.agrees
        self._tokens += 1
        if self._clock() >= self._due:
            self._due = self._clock() + EVERY_S
            self.tell()

    def tell(self) -> None:
        """Write what is known into the header, if the output is another at all."""
        if not (self._tokens and self._why):
            return
        said = (
            f"KL {three(self._nats / self._tokens)} nats a token, top-1 agreement "
            f"{percent(self._same / self._tokens)}"
        )
        self._view.info = {**self._view.info, "changed_output": f"{self._why}; {said}"}
