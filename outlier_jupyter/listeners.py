"""Who hears the events of a run. One that raises is dropped and logged: decoding goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .events import Event, Sink

log = logging.getLogger(__name__)


class Listeners:
    """The sinks of one engine: those that subscribed, and during a run its recorder."""

    def __init__(self) -> None:
        self._subscribed: list[Sink] = []
        self._listening: list[Sink] = []

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Have `sink` hear later runs; call what is returned to end that."""
        self._subscribed.append(sink)

        def unsubscribe() -> None:
            if sink in self._subscribed:
                self._subscribed.remove(sink)

        return unsubscribe

    def begin(self, recorder: Sink) -> None:
        """A run begins: `recorder` hears it first, then all that have subscribed by now."""
        self._listening = [recorder, *self._subscribed]

    def between_runs(self, event: Event) -> None:
        """Tell all that have subscribed of something that belongs to no run."""
        self._listening = list(self._subscribed)
        self(event)
        self.end()

    def end(self) -> None:
        """The run is over: what the model does now is nobody's run."""
        self._listening = []

    def __call__(self, event: Event) -> None:
        """Tell everybody who listens."""
        for sink in tuple(self._listening):
            try:
                sink(event)
            except Exception:
                self._listening.remove(sink)
                log.exception("%r raised on %s and is not called again", sink, type(event).__name__)
