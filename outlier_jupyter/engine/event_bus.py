"""Who hears the events of a run. One that raises is dropped and logged: decoding goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import get_args

from ..events import Event, ResidentLayers, RunDone, Sink, Unsubscribe

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Listener:
    """A sink, and the kinds of event that it hears; all, where none are named.

    `ResidentLayers` is heard where it is named; others hear the events that it stands for.
    """

    sink: Sink
    kinds: tuple[type[Event], ...]

    def hears(self, kind: type[Event]) -> bool:
        """Whether it is told events of this kind."""
        return kind in self.kinds or not (self.kinds or kind is ResidentLayers)


class Listeners:
    """The sinks of one engine: those that subscribed, and during a run its recorder.

    Args:
        stop: called where a sink was interrupted, or raises KeyboardInterrupt by itself.
    """

    def __init__(self, stop: Callable[[], object] = lambda: None) -> None:
        self._stop = stop
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
        if self._singly and isinstance(event, ResidentLayers):
            for single in event.singly():
                for listener in self._singly:
                    if listener.hears(type(single)):
                        self._hand(listener, single)

    def _hand(self, listener: _Listener, event: Event) -> None:
        try:
            listener.sink(event)
        except BaseException as error:  # whatever a sink raises, what is under way is booked
            if isinstance(error, KeyboardInterrupt):
                self._stop()
            kind = type(event).__name__
            others = [each for each in self._listening if each is not listener]
            if isinstance(error, Unsubscribe):
                self._listen(others)
                return
            if isinstance(error, KeyboardInterrupt) and kind != "RunDone":
                # It may be as good as ever, and shows a run that would seem to last.
                others.append(_Listener(listener.sink, (RunDone,)))
            self._listen(others)
            log.exception("%r raised on %s and is not called again", listener.sink, kind)

    def in_a_sink(self, frame: FrameType | None) -> bool:
        """Whether `frame` is in a sink that subscribed: what is ours may not be cut short."""
        while frame is not None:
            if frame.f_code is Listeners._hand.__code__:
                return any(frame.f_locals["listener"] is each for each in self._subscribed)
            frame = frame.f_back
        return False

    def _listen(self, listening: list[_Listener]) -> None:
        # Worked out once a run: hundreds of events are told for each token.
        self._listening = listening
        self._hearing = {
            kind: [each for each in listening if each.hears(kind)]
            for kind in (get_args(Event) if listening else ())
        }
        self._singly = [each for each in listening if ResidentLayers not in each.kinds]
