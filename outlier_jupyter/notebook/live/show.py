"""Runs a prompt under the live view, and leaves in the same output what needs no kernel.

The live view is a widget: a saved notebook cannot show it. So when the run ends, however it
ends, its place is taken by the static view, which is HTML, a picture, Markdown and text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from IPython.display import display

from ...engine.engine import Engine, run_info
from ...events import Event, PromptEncoded
from ...runs.run import Interrupted, Run
from ..chat.thread import on_this_thread
from ..render.places import Place
from .frame_builder import Feed
from .frames import Frame
from .loss import LossLine
from .replay import frame_of
from .widget import LiveView, header


def show_run(engine: Engine, prompt: str, options: dict[str, Any]) -> Run:
    """Generate from `prompt` with the fields of `GenerateOptions`, shown as it happens.

    Raises:
        Interrupted: stopped; what was made stays shown and is in its `.run`.
        OutlierError: as `Engine.generate`; bad options are refused before anything is shown.
    """
    asked = engine.routing.options(options)
    view = make_view(engine, prompt, info=header(run_info(engine, asked), prompt))
    live = _Live(view)
    feed = NextRun(engine, live.push)
    loss = LossLine(view)
    unsubscribe = [
        engine.subscribe(feed, *NextRun.KINDS),
        engine.subscribe(on_this_thread(loss), *LossLine.KINDS),
    ]
    run = None
    try:
        run = engine.generate(prompt, **options)
        return run
    except Interrupted as stop:
        run = stop.run
        raise
    finally:
        for end in unsubscribe:
            end()
        loss.tell()
        run = run or engine.last_run
        if live.output is not None and run is not None:
            view.finish(run.finish_reason, feed.last_frame(run))
            live.output.replace(run._repr_mimebundle_())
        view.close()


def show_result(engine: Engine, prompt: str, options: dict[str, Any]) -> Run:
    """Generate without a live view, and show what stays; arguments and errors as `show_run`'s."""
    try:
        run = engine.generate(prompt, **options)
    except Interrupted as stop:
        display(dict(stop.run._repr_mimebundle_()), raw=True)
        raise
    display(dict(run._repr_mimebundle_()), raw=True)
    return run


class _Live:
    """Displays the view with its first frame: a run that is refused leaves nothing behind."""

    def __init__(self, view: LiveView) -> None:
        self.output: Place | None = None
        self._view = view

    def push(self, frame: Frame) -> float:
        if self.output is None:
            self.output = Place(self._view, lambda: display(self._view, display_id=True))
        return self._view.push(frame)


def make_view(engine: Engine, prompt: str, **given: Any) -> LiveView:
    """A live view whose header says what `engine` is, and whose Stop stops it.

    Args:
        **given: arguments of `LiveView`, in place of what it would have.
    """
    settings: dict[str, Any] = {"info": header(engine.info, prompt), "on_stop": engine.stop}
    return LiveView(**settings | given)


def make_feed(engine: Engine, on_frame: Callable[[Frame], object]) -> Feed:
    """A feed of the next run of `engine`."""
    info = engine.info
    return Feed(
        layers=len(info.layer_names),
        experts=max(info.experts_per_layer, default=0),
        slots=info.slots,
        resident_at_start=engine.resident(),
        on_frame=on_frame,
        kernels=info.kernels,
    )


class NextRun:
    """A sink that feeds a view with the next run of the thread that made it.

    The feed begins with the run: until it is its turn other runs change what is in RAM.
    """

    KINDS = Feed.KINDS
    """The events that it needs to hear."""

    def __init__(self, engine: Engine, on_frame: Callable[[Frame], object]) -> None:
        self._engine, self._on_frame = engine, on_frame
        self._feed: Feed | None = None
        self._thread = threading.get_ident()

    def __call__(self, event: Event) -> None:
        if threading.get_ident() != self._thread:
            return  # another's run, which is waited for
        if type(event) is PromptEncoded:
            self._feed = make_feed(self._engine, self._on_frame)
        if self._feed is not None:
            self._feed(event)

    def last_frame(self, run: Run | None) -> Frame | None:
        """What a view shows of a run that is over; None of one that never began."""
        return None if self._feed is None else last_frame(self._feed, run)


def last_frame(feed: Feed, run: Run | None) -> Frame:
    """What a view shows of a run that is over.

    Of one that was cut short in the middle of a call its feed has told more than its trace keeps:
    there it is the trace that is shown, so that all views of a run say the same.
    """
    told = feed.snapshot()
    if run is None or run.finish_reason in WHOLE:
        return told
    return replace(frame_of(run), run=told.run, seq=told.seq + 1)


WHOLE = ("stop", "length")
"""How runs end that are not cut short."""
