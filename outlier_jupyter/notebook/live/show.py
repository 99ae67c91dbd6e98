"""Run a prompt with the live view, which stays after the run, finished or not.

The live view is a widget, which a saved notebook cannot show. So it leaves a static view (HTML, a
picture, Markdown and text) in an output of its own, which the widget hides while it lives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import display

from ...engine.cache_order import cache_order
from ...engine.engine import Engine
from ...engine.open_run import run_info
from ...events import Event, PromptEncoded
from ...runs.run import Interrupted, Run
from ...system.interactive import attended
from ..worker import on_this_thread
from .divergence import DivergenceLine
from .finished_run import frame_of_run
from .frame_builder import FrameBuilder
from .frames import Frame
from .memory_note import MemoryNote
from .rank_note import RankNote
from .widget import LiveView, header


def show_run(
    engine: Engine, prompt: str, options: dict[str, Any], pace: float | None = None
) -> Run:
    """Generate from `prompt` with the fields of `GenerateOptions`, in a live view.

    The view shows `pace` tokens/s (default: as they are made).

    Raises:
        Interrupted: stopped; the partial run stays visible and is in its `.run`.
        OutlierError: as `Engine.generate`; bad options raise before anything is displayed.
    """
    routed_options = engine.routing.options(options)
    view = make_view(engine, prompt, info=header(run_info(engine, routed_options), prompt, pace))
    display_once = _DisplayOnFirstFrame(view)
    frames = NextRunFrames(engine, display_once.push)
    divergence = DivergenceLine(view)
    unsubscribe = [
        engine.subscribe(frames, *NextRunFrames.KINDS),
        engine.subscribe(on_this_thread(divergence), *DivergenceLine.KINDS),
        engine.subscribe(on_this_thread(MemoryNote(view, engine)), *MemoryNote.KINDS),
        engine.subscribe(on_this_thread(RankNote(view, engine)), *RankNote.KINDS),
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
        divergence.show()
        run = run or engine.last_run
        if display_once.done:
            view.finish(run.finish_reason if run is not None else "error", frames.last_frame(run))
            view.keep_run(run)
        else:
            view.close()


def show_result(engine: Engine, prompt: str, options: dict[str, Any]) -> Run:
    """Generate, then display the static view; arguments and errors as for `show_run`."""
    try:
        run = engine.generate(prompt, **options)
    except Interrupted as stop:
        display(dict(stop.run._repr_mimebundle_()), raw=True)
        raise
    display(dict(run._repr_mimebundle_()), raw=True)
    return run


def show_finished(run: Run, brief: bool) -> None:
    """Display a finished run in the live view.

    Raises:
        NotImplementedError: it is shown `brief`ly, or there is no page for a widget; IPython then
            displays what `_repr_mimebundle_` returns.
    """
    if brief or not hasattr(get_ipython(), "kernel") or not attended():
        raise NotImplementedError
    display(LiveView.of(run))


class _DisplayOnFirstFrame:
    """Displays the view with its first frame: a rejected run displays nothing."""

    def __init__(self, view: LiveView) -> None:
        self.done = False
        self._view = view

    def push(self, frame: Frame) -> float:
        if not self.done:
            self.done = True
            display(self._view)
        return self._view.push(frame)


def make_view(engine: Engine, prompt: str, **arguments: Any) -> LiveView:
    """Make a live view with the engine's data in its header, and a Stop that stops the engine.

    Args:
        **arguments: of `LiveView`; they replace the defaults of this function.
    """
    settings: dict[str, Any] = {"info": header(engine.info, prompt), "on_stop": engine.stop}
    return LiveView(**settings | arguments)


def make_frame_builder(engine: Engine, on_frame: Callable[[Frame], object]) -> FrameBuilder:
    """Make a frame builder for the next run of `engine`."""
    info = engine.info
    return FrameBuilder(
        layers=len(info.layer_names),
        experts=max(info.experts_per_layer, default=0),
        slots=info.slots,
        resident_at_start=engine.resident(),
        on_frame=on_frame,
        kernels=info.kernels,
        order=lambda: cache_order(engine),
    )


class NextRunFrames:
    """A subscriber that builds frames of the next run on the thread that created it.

    The frame builder is created when the run begins: runs before it still change which experts are
    resident.
    """

    KINDS = FrameBuilder.KINDS
    """The events it subscribes to."""

    def __init__(self, engine: Engine, on_frame: Callable[[Frame], object]) -> None:
        self._engine, self._on_frame = engine, on_frame
        self._builder: FrameBuilder | None = None
        self._thread = threading.get_ident()

    def __call__(self, event: Event) -> None:
        if threading.get_ident() != self._thread:
            return  # a run of another thread, which ends before this one begins
        if type(event) is PromptEncoded:
            self._builder = make_frame_builder(self._engine, self._on_frame)
        if self._builder is not None:
            self._builder(event)

    def last_frame(self, run: Run | None) -> Frame | None:
        """The last frame of a finished run; None if it never began."""
        return None if self._builder is None else last_frame(self._builder, run)


def last_frame(builder: FrameBuilder, run: Run | None) -> Frame:
    """The last frame of a finished run.

    If a run ended within a call, its frames contain more than its trace. The last frame then comes
    from the trace, so that all views of a run are equal.
    """
    snapshot = builder.snapshot()
    if run is None or run.finish_reason in COMPLETE:
        return snapshot
    return replace(frame_of_run(run), run=snapshot.run, seq=snapshot.seq + 1)


COMPLETE = ("stop", "length")
"""The finish reasons of complete runs."""
