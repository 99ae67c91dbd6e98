"""`watch`: start a run on its own thread and return the widget that shows it.

The cell returns at once, so Stop is a message that every kernel handles, and the view can be placed
beside others. It is also the only way in marimo, which has no magics and handles no message during
a cell. Runs of one engine wait for each other.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from ...engine.decode import StartedRun
from ...engine.engine import Engine, leave_thread
from ...engine.one_run import start_run
from ...engine.open_run import run_info
from ...engine.prompts import Prompt, as_prompt
from ...errors import OptionError, OutlierError, shown
from ...events import Event, PromptEncoded
from ...options import GenerateOptions, settled, takes
from ...runs.run import Interrupted, Run
from ...system.interactive import attended
from ...values import checked, rate
from ..engine_handle import engine_of
from ..worker import Worker, on_this_thread
from .divergence import DivergenceLine
from .memory_note import MemoryNote
from .rank_note import RankNote
from .show import NextRunFrames
from .widget import LiveView, header

_workers: weakref.WeakKeyDictionary[Engine, Worker] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@takes(GenerateOptions)
@checked(pace=rate)
def watch(engine: Engine, prompt: Prompt, *, pace: float | None = None, **options: Any) -> Watched:
    """Start a run and return its live view at once: display it, or put it into an `HBox`.

    The run waits for earlier runs of `watch` on the same engine. If the same cell is run again, its
    earlier run is stopped first.

    Args:
        engine: from `outlier_jupyter.load`; the caller closes it.
        prompt: as for `Engine.generate`.
        pace: tokens per second that the view shows, such as 8 to read along, while the run is
            computed at full speed (default: as they are made).
        **options: the fields of `GenerateOptions`.

    Raises:
        OptionError, EngineClosed: nothing is displayed.
    """
    return Watched(engine_of(engine), prompt, options, pace)


class RunningView(LiveView):
    """A run in progress on the engine's thread for `watch`, and its live view.

    `status` is "waiting", "running", and at the end "stop", "length", "interrupted" or "error".
    Observers of it are called on the thread that decodes. The view remains after the run.

    Args:
        engine: whose run it is.
        start: starts the run; called on the thread that decodes.
        info: as of `LiveView`.

    Attributes:
        run: the `Run`, also if it was interrupted or failed; None until the end.
        error: the exception that ended the run, or None.
    """

    def __init__(
        self, engine: Engine, start: Callable[[], StartedRun], info: Mapping[str, object]
    ) -> None:
        self.run: Run | None = None
        self.error: BaseException | None = None
        self._engine, self._start = engine, start
        self._ended = threading.Event()
        self._stopped = False
        self._thread: int | None = None  # of the run, once it has begun
        # kernel_id="": the cell has returned by then, so Stop must not interrupt the kernel.
        super().__init__(info=info, on_stop=self.stop, kernel_id="")
        # A kernel that shuts down during a run must not leave MLX running on a thread.
        weakref.finalize(self, _end, engine, self._ended)

    def begin(self) -> None:
        """Queue the run: it begins after those that are queued."""
        _worker_of(self._engine).put(self._decode)

    @property
    def engine(self) -> Engine:
        """The engine of the run."""
        return self._engine

    def wait(self) -> Run:
        """Wait for the end and return the run; Ctrl-C, or the notebook's interrupt, stops it.

        Raises:
            Interrupted: stopped; the partial run is in its `.run`.
            EngineBusy, ReadFailed: nothing is lost; start it again.
        """
        if _worker_of(self._engine).here:
            raise OutlierError(
                "an observer of this run waited for its end and would wait for itself: "
                "wait in a cell"
            )
        try:
            self._ended.wait()
        except KeyboardInterrupt:
            self.stop()
            self._ended.wait()
            if self.error is None:
                raise
        if self.error is not None:
            raise self.error
        assert self.run is not None
        return self.run

    def stop(self) -> None:
        """Stop the run before it begins, or before its next layer; from any thread."""
        self._stopped = True
        if not self._ended.is_set() and self._engine.run_lock.owned_by(self._thread):
            self._engine.stop()

    def close(self) -> None:
        """Stop the run, and close the widget."""
        if "_over" in self.__dict__:  # absent if __init__ raised
            self.stop()
        super().close()

    def show(self, *, widget: bool = True) -> None:
        """Display the view; in a notebook run by a program, the static view at the end."""
        super().show(widget=widget and attended())

    def _ipython_display_(self) -> None:
        with self._lock:  # the run may end meanwhile
            super()._ipython_display_()

    def _decode(self) -> None:
        """The whole run, on the engine's thread for `watch`."""
        engine = self._engine
        frames = NextRunFrames(engine, self.push)
        divergence = DivergenceLine(self)
        begun: StartedRun | None = None

        def on_event(event: Event) -> None:
            self._thread = threading.get_ident()
            if self._stopped:
                engine.stop()  # Stop was pressed before the run began

        unsubscribe = [
            engine.subscribe(frames, *NextRunFrames.KINDS),
            engine.subscribe(on_this_thread(divergence), *DivergenceLine.KINDS),
            engine.subscribe(on_this_thread(MemoryNote(self, engine)), *MemoryNote.KINDS),
            engine.subscribe(on_this_thread(RankNote(self, engine)), *RankNote.KINDS),
            engine.subscribe(on_this_thread(on_event), PromptEncoded),
        ]
        try:
            with engine.run_lock.ends_by_itself(lambda: self._stopped):
                begun = self._start()
                for _ in begun.steps:
                    pass
        except (Interrupted, Exception) as error:
            self.error = error
        finally:
            for end in unsubscribe:
                end()
            divergence.show()
            self.run = begun.run if begun is not None else None
            ended = "interrupted" if self._stopped else "error"
            with self._lock:
                self.answer_from(self.run)
                self.finish(
                    self.run.finish_reason if self.run else ended, frames.last_frame(self.run)
                )
                self.keep_run(self.run)  # before `wait` returns, after which the kernel may end
                self._ended.set()


class Watched(RunningView):
    """What `watch` returns: a run of a prompt in progress, and its live view."""

    def __init__(
        self, engine: Engine, prompt: Prompt, options: dict[str, Any], pace: float | None = None
    ) -> None:
        if not isinstance(engine, Engine):
            raise OptionError(
                f"{shown(engine)} is not an engine: give what outlier_jupyter.load returns"
            )
        # Read here, once: bad values raise now, and a generator can be read only once.
        prompt, options = as_prompt(prompt), settled(GenerateOptions, options)
        engine.stream(prompt, **options)  # checks the options; does not start
        merged = engine.routing.merged(options)
        self._request, self._begun_by = (prompt, merged), _execution()
        text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))
        info = run_info(engine, engine.routing.options(options))
        super().__init__(
            engine, lambda: start_run(engine, prompt, merged), header(info, text, pace)
        )
        _begin(self)


def _worker_of(engine: Engine) -> Worker:
    """The thread that decodes the runs of `watch` on an engine, one after another."""
    with _lock:
        if engine not in _workers:
            _workers[engine] = worker = Worker("outlier watch", leave_thread)
            # Joined at exit as well: a thread that used MLX must not outlive the interpreter.
            weakref.finalize(engine, worker.close)
        return _workers[engine]


_watched: weakref.WeakSet[Watched] = weakref.WeakSet()
"""The runs that cells have begun."""


def _begin(watched: Watched) -> None:
    """Queue a run; runs that the same cell began when it was run before are stopped."""
    cell, request = watched._begun_by
    with _lock:
        others = [each for each in _watched if each.engine is watched.engine]
        _watched.add(watched)
    for other in others:
        if cell and other._begun_by[0] == cell and other._begun_by[1] != request:
            other.stop()
    watched.begin()


def _execution() -> tuple[str, str]:
    """The ids of the current cell, "" if the front end does not send it, and of its execution."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    parent = getattr(shell, "parent_header", None)
    if not isinstance(parent, dict):
        return "", ""
    cell = str(parent.get("metadata", {}).get("cellId", ""))
    return cell, str(parent.get("header", {}).get("msg_id", ""))


def _end(engine: Engine, over: threading.Event) -> None:
    if not over.is_set():
        engine.run_lock.refuse_waiting()  # the interpreter ends: no further run may begin
        engine.stop()
        over.wait()
