"""Sends the events of a run to its subscribers; one that raises is dropped, decoding goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import get_args

from ..events import Event, ResidentLayers, RunDone, Sink, Unsubscribe

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Subscriber:
    """A sink and the kinds of event that it requests; none means all except `ResidentLayers`.

    Subscribers that do not request `ResidentLayers` receive the individual events instead.
    """

    sink: Sink
    kinds: tuple[type[Event], ...]

    def wants(self, kind: type[Event]) -> bool:
        """Whether it receives events of this kind."""
        return kind in self.kinds or not (self.kinds or kind is ResidentLayers)


class EventBus:
    """The subscribers of one engine, and during a run its recorder; called with each event.

    Args:
        stop: called when a sink was interrupted or raises KeyboardInterrupt itself.
    """

    def __init__(self, stop: Callable[[], object] = lambda: None) -> None:
        self._stop = stop
        self._subscribed: list[_Subscriber] = []
        self._active: list[_Subscriber] = []
        self._by_kind: dict[type[Event], list[_Subscriber]] = {}
        self._individually: list[_Subscriber] = []

    def subscribe(self, sink: Sink, *kinds: type[Event]) -> Callable[[], None]:
        """Send `sink` later runs' events of `kinds`, or all; the returned function ends that."""
        subscriber = _Subscriber(sink, kinds)
        self._subscribed.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribed:
                self._subscribed.remove(subscriber)

        return unsubscribe

    def begin(self, recorder: Sink, *kinds: type[Event]) -> None:
        """Begin a run: `recorder` receives each event first, then the present subscribers."""
        self._activate([_Subscriber(recorder, kinds), *self._subscribed])

    def begin_alone(self, recorder: Sink, *kinds: type[Event]) -> None:
        """Begin several runs together: their events reach `recorder` and no subscriber."""
        self._activate([_Subscriber(recorder, kinds)])

    def between_runs(self, event: Event) -> None:
        """Send an event that belongs to no run to all subscribers."""
        self._activate(list(self._subscribed))
        self(event)
        self.end()

    def end(self) -> None:
        """End the run: later calls of the model send nothing."""
        self._activate([])

    def __call__(self, event: Event) -> None:
        """Send `event` to all subscribers that request its kind."""
        for subscriber in self._by_kind.get(type(event), ()):
            self._send(subscriber, event)
        if self._individually and isinstance(event, ResidentLayers):
            for single in event.events():
                for subscriber in self._individually:
                    if subscriber.wants(type(single)):
                        self._send(subscriber, single)

    def _send(self, subscriber: _Subscriber, event: Event) -> None:
        try:
            subscriber.sink(event)
        except BaseException as error:  # whatever a sink raises, the run goes on
            if isinstance(error, KeyboardInterrupt):
                self._stop()
            kind = type(event).__name__
            others = [each for each in self._active if each is not subscriber]
            if isinstance(error, Unsubscribe):
                self._activate(others)
                return
            if isinstance(error, KeyboardInterrupt) and kind != "RunDone":
                # The sink itself may be fine: without RunDone its view would seem to run on.
                others.append(_Subscriber(subscriber.sink, (RunDone,)))
            self._activate(others)
            log.exception("%r raised on %s and is not called again", subscriber.sink, kind)

    def in_a_sink(self, frame: FrameType | None) -> bool:
        """Whether `frame` is in a subscribed sink; the recorder must not be interrupted."""
        while frame is not None:
            if frame.f_code is EventBus._send.__code__:
                return any(frame.f_locals["subscriber"] is each for each in self._subscribed)
            frame = frame.f_back
        return False

    def _activate(self, subscribers: list[_Subscriber]) -> None:
        # Sorted by kind once per run: each token sends hundreds of events.
        self._active = subscribers
        self._by_kind = {
            kind: [each for each in subscribers if each.wants(kind)]
            for kind in (get_args(Event) if subscribers else ())
        }
        self._individually = [each for each in subscribers if ResidentLayers not in each.kinds]
