"""`watch`: a run on a thread of its own, and the widget that shows it. The magics' way, as a call.

The cell returns at once, so Stop is a message that every kernel handles, and the view can be put
beside others. That is also the only way there is in marimo, which has no magics and handles no
message while a cell runs. Runs of one engine wait for each other; how a run is decoded, and what
a view sends, is not known here.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import Any

from IPython.display import display

from ...engine.engine import Begun, Engine, begin, leave_thread, run_info
from ...engine.prompts import Prompt, as_prompt
from ...errors import OptionError, OutlierError, shown
from ...events import Event, PromptEncoded
from ...options import GenerateOptions, settled, takes
from ...runs.run import Interrupted, Run
from ...system.interactive import attended
from ..chat.thread import Worker, on_this_thread
from ..engine_handle import engine_of
from ..render.places import Place
from .loss import LossLine
from .show import NextRun
from .widget import LiveView, header

_workers: weakref.WeakKeyDictionary[Engine, Worker] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@takes(GenerateOptions)
def watch(engine: Engine, prompt: Prompt, **options: Any) -> Watched:
    """Begin a run and return its live view at once: display it, or put it into an `HBox`.

    A run of the same engine that `watch` began before is waited for; one that this very cell
    began, which is being run again, is stopped first.

    Args:
        engine: from `outlier_jupyter.load`; it stays the caller's to close.
        prompt: as `Engine.generate` takes it.
        **options: the fields of `GenerateOptions`.

    Raises:
        OptionError, EngineClosed: nothing is shown then.
    """
    return Watched(engine_of(engine), prompt, options)


class Watched(LiveView):
    """A run under way and its live view; `watch` makes them.

    `status` is "waiting", "running", and in the end "stop", "length", "interrupted" or "error":
    observe it. Observers are called on the thread that decodes. Displayed by itself, the view is
    replaced by one that needs no kernel when the run has ended; `run.view()` shows it again.

    Attributes:
        run: the `Run`, also of a run that was interrupted or failed; None until it is over.
        error: what the run ended with, or None.
    """

    def __init__(self, engine: Engine, prompt: Prompt, options: dict[str, Any]) -> None:
        if not isinstance(engine, Engine):
            raise OptionError(
                f"{shown(engine)} is no engine to watch: give what outlier_jupyter.load returns"
            )
        # Read once, here: what is wrong is refused now, and a generator gives its items once.
        prompt, options = as_prompt(prompt), settled(GenerateOptions, options)
        engine.stream(prompt, **options)  # not begun
        self.run: Run | None = None
        self.error: BaseException | None = None
        self._engine = engine
        self._asked = (prompt, engine.routing.merged(options))
        self._over = threading.Event()
        self._stopped = False
        self._thread: int | None = None  # since the run has begun
        self._places: list[Place] = []
        self._cell = _cell()
        asked = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))
        # The cell will have returned: Stop is a message, and never interrupts the kernel.
        info = run_info(engine, engine.routing.options(options))
        super().__init__(info=header(info, asked), on_stop=self.stop, kernel_id="")
        # A kernel that shuts down in the middle of a run must not leave MLX running on a thread.
        weakref.finalize(self, _end, engine, self._over)
        _begin(self)

    @property
    def engine(self) -> Engine:
        """The engine that runs."""
        return self._engine

    def wait(self) -> Run:
        """Wait for the end and return the run; Ctrl-C, or the notebook's interrupt, stops it.

        Raises:
            Interrupted: stopped; what was made is in its `.run`.
            EngineBusy, ReadFailed: nothing is lost, ask again.
        """
        if _worker(self._engine).here:
            raise OutlierError(
                "an observer of this run waited for its end and would wait for itself: "
                "wait in a cell"
            )
        try:
            self._over.wait()
        except KeyboardInterrupt:
            self.stop()
            self._over.wait()
            if self.error is None:
                raise
        if self.error is not None:
            raise self.error
        assert self.run is not None
        return self.run

    def stop(self) -> None:
        """Stop the run before the model's next layer, or before it has begun; from any thread."""
        self._stopped = True
        if not self._over.is_set() and self._engine.turns.of(self._thread):
            self._engine.stop()

    def close(self) -> None:
        """Stop the run, and close the widget."""
        if "_over" in self.__dict__:  # not if __init__ refused; ipywidgets closes that, too
            self.stop()
        super().close()

    def _ipython_display_(self, **kwargs: Any) -> None:
        """Display the view so that it can be replaced; a run that is over shows what stays."""
        with self._lock:
            if self._over.is_set() and self.run is not None:
                display(dict(self.run._repr_mimebundle_()), raw=True)
                return
            bundle: Any = {"text/plain": repr(self)}
            if attended():
                bundle = self._repr_mimebundle_(**kwargs)
            data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
            settings = {"metadata": metadata, "raw": True, "display_id": True}
            self._places.append(Place(self, lambda: display(dict(data), **settings)))

    def _decode(self) -> None:
        """The whole run, on the engine's thread for such runs."""
        engine = self._engine
        feed = NextRun(engine, self.push)
        loss = LossLine(self)
        begun: Begun | None = None

        def hear(event: Event) -> None:
            self._thread = threading.get_ident()
            if self._stopped:
                engine.stop()  # pressed before there was a run to stop

        unsubscribe = [
            engine.subscribe(feed, *NextRun.KINDS),
            engine.subscribe(on_this_thread(loss), *LossLine.KINDS),
            engine.subscribe(on_this_thread(hear), PromptEncoded),
        ]
        try:
            prompt, options = self._asked
            with engine.turns.ending(lambda: self._stopped):
                begun = begin(engine, prompt, options)
                for _ in begun.steps:
                    pass
        except (Interrupted, Exception) as error:
            self.error = error
        finally:
            for end in unsubscribe:
                end()
            loss.tell()
            self.run = begun.run if begun is not None else None
            ended = "interrupted" if self._stopped else "error"
            self.answer_from(self.run)
            self.finish(self.run.finish_reason if self.run else ended, feed.last_frame(self.run))
            with self._lock:
                self._replace()  # before anybody who waits goes on, and ends the kernel
                self._over.set()

    def _replace(self) -> None:
        """Put what needs no kernel in the place of this view."""
        while self._places and self.run is not None:
            self._places.pop().replace(self.run._repr_mimebundle_())


def _worker(engine: Engine) -> Worker:
    """The thread on which `watch` decodes an engine's runs, one after another."""
    with _lock:
        if engine not in _workers:
            _workers[engine] = worker = Worker("outlier watch", leave_thread)
            # Joined at exit, too: a thread that has used MLX may not outlive the interpreter.
            weakref.finalize(engine, worker.close)
        return _workers[engine]


_newest: weakref.WeakValueDictionary[str, Watched] = weakref.WeakValueDictionary()
"""The run that each cell began last."""


def _begin(watched: Watched) -> None:
    """Queue a run; the one that the same cell began before is superseded."""
    if watched._cell:
        before, _newest[watched._cell] = _newest.get(watched._cell), watched
        if before is not None and before.engine is watched.engine:
            before.stop()
    _worker(watched.engine).put(watched._decode)


def _cell() -> str:
    """The id of the cell that is running, where the front end tells it, or ""."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    parent = getattr(shell, "parent_header", None)
    if not isinstance(parent, dict):
        return ""
    return str(parent.get("metadata", {}).get("cellId", ""))


def _end(engine: Engine, over: threading.Event) -> None:
    if not over.is_set():
        engine.turns.refuse()  # the interpreter ends: no run may begin any more
        engine.stop()
        over.wait()
