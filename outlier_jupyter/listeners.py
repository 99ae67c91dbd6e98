"""Who hears the events of a run. One that raises is dropped and logged: decoding goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from .events import Event, HeldLayers, Sink

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Listener:
    """A sink, and the kinds of event that it hears; all, where none are named.

    `HeldLayers` is heard where it is named; others hear the events that it stands for.
    """

    sink: Sink
    kinds: tuple[type[Event], ...]

    def hears(self, kind: type[Event]) -> bool:
        """Whether it is told events of this kind."""
        return kind in self.kinds or not (self.kinds or kind is HeldLayers)


class Listeners:
    """The sinks of one engine: those that subscribed, and during a run its recorder."""

    def __init__(self) -> None:
        self._subscribed: list[_Listener] = []
        self._listening: list[_Listener] = []
        self._hearing: dict[type[Event], list[_Listener]] = {}
        self._singly: list[_Listener] = []

    def subscribe(self, sink: Sink, *kinds: type[Event]) -> Callable[[], None]:
        """Have `sink` hear later runs' events of `kinds`, or all; what is returned ends that."""
        listener = _Listener(sink, kinds)
        self._subscribed.append(listener)

        def unsubscribe() -> None:
            if listener in self._subscribed:
                self._subscribed.remove(listener)

        return unsubscribe

    def begin(self, recorder: Sink, *kinds: type[Event]) -> None:
        """A run begins: `recorder` hears it first, then all that have subscribed by now."""
        self._listen([_Listener(recorder, kinds), *self._subscribed])

    def between_runs(self, event: Event) -> None:
        """Tell all that have subscribed of something that belongs to no run."""
        self._listen(list(self._subscribed))
        self(event)
        self.end()

    def end(self) -> None:
        """The run is over: what the model does now is nobody's run."""
        self._listen([])

    def __call__(self, event: Event) -> None:
        """Tell everybody who hears this kind."""
        for listener in self._hearing.get(type(event), ()):
            self._hand(listener, event)
        if self._singly and isinstance(event, HeldLayers):
            for single in event.singly():
                for listener in self._singly:
                    if listener.hears(type(single)):
                        self._hand(listener, single)

    def _hand(self, listener: _Listener, event: Event) -> None:
        try:
            listener.sink(event)
        except Exception:
            kind = type(event).__name__
            self._listen([each for each in self._listening if each is not listener])
            log.exception("%r raised on %s and is not called again", listener.sink, kind)

    def _listen(self, listening: list[_Listener]) -> None:
        # Worked out once a run: hundreds of events are told for each token.
        self._listening = listening
        self._hearing = {
            kind: [each for each in listening if each.hears(kind)]
            for kind in (get_args(Event) if listening else ())
        }
        self._singly = [each for each in listening if HeldLayers not in each.kinds]
