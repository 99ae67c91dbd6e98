"""Order of runs: one that ends by itself is waited for, an open stream is refused."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import outlier_jupyter
from outlier_jupyter import Engine
from outlier_jupyter.errors import EngineBusy, EngineClosed
from outlier_jupyter.events import PromptEncoded, StepDone
from outlier_jupyter.notebook.chat.chat import Chat

WAIT_S = 60


@pytest.fixture
def engine(tiny: Path) -> Iterator[Engine]:
    """A tiny model whose runs do not end by themselves."""
    with outlier_jupyter.load(str(tiny), cache_experts=6) as engine:
        engine.tokenizer.eos_token_ids = set()
        yield engine


class PausedRun:
    """A watched run that pauses in its third step until `go_on`."""

    def __init__(self, engine: Engine) -> None:
        self.stands, self._go = threading.Event(), threading.Event()
        self._steps = 0
        self._thread: int | None = None
        engine.subscribe(self._hear, PromptEncoded, StepDone)
        self.view = outlier_jupyter.watch(engine, "Hello", max_tokens=6)
        assert self.stands.wait(WAIT_S)

    def _hear(self, event: object) -> None:
        self._thread = self._thread or threading.get_ident()
        self._steps += threading.get_ident() == self._thread
        if self._steps == 3 and not self._go.is_set():
            self.stands.set()
            assert self._go.wait(WAIT_S)

    def go_on(self) -> None:
        self._go.set()


def soon(act: Callable[[], object]) -> None:
    """Call `act` shortly afterwards on another thread, when the caller already waits."""
    threading.Timer(0.3, act).start()


def test_a_run_waits_for_one_that_watch_has_begun(engine: Engine) -> None:
    """In a cell after it, as in "Run All": both runs are complete, and the second is the last."""
    paused = PausedRun(engine)
    soon(paused.go_on)
    run = engine.generate("And now?", max_tokens=4)
    assert run.generated == 4 and paused.view.wait().generated == 6
    assert engine.last_run is run


def test_all_that_a_cell_may_ask_for_waits(engine: Engine) -> None:
    """A stream, another cache size, a chat's answer, and an awaited run."""
    calls: list[Callable[[], object]] = [
        lambda: list(engine.stream("Hello", max_tokens=2)),
        lambda: engine.resize(cache_experts=7),
        lambda: Chat(engine, max_tokens=2).send("Hello"),
        lambda: asyncio.run(engine.agenerate("Hello", max_tokens=2)),
    ]
    for ask in calls:
        paused = PausedRun(engine)
        soon(paused.go_on)
        ask()
        assert paused.view.wait().generated == 6


def test_a_watched_run_waits_for_a_cell_s(engine: Engine) -> None:
    """A run that `watch` queues starts when the other thread's run has ended."""
    views = []

    def also(event: object) -> None:
        if not views:
            views.append(outlier_jupyter.watch(engine, "Me too", max_tokens=3))

    unsubscribe = engine.subscribe(also, StepDone)
    run = engine.generate("Hello", max_tokens=5)
    unsubscribe()
    assert run.generated == 5 and views[0].wait().generated == 3


def test_an_open_stream_is_refused_and_not_waited_for(engine: Engine) -> None:
    """The caller may be the stream's own reader; a chat and a watched run refuse it, too."""
    stream = engine.stream("Hello", max_tokens=5)
    next(stream)
    with pytest.raises(EngineBusy, match="another run is under way"):
        engine.generate("Hello")
    view = outlier_jupyter.watch(engine, "Hello")
    with pytest.raises(EngineBusy, match="another run is under way"):
        view.wait()
    stream.close()


def test_an_interrupt_ends_the_wait_and_not_the_run_that_is_waited_for(engine: Engine) -> None:
    """Ctrl-C in the waiting cell is a KeyboardInterrupt; the watched run is complete."""
    paused = PausedRun(engine)
    main = threading.main_thread().ident
    assert main is not None
    with pytest.raises(KeyboardInterrupt) as raised:
        soon(lambda: signal.pthread_kill(main, signal.SIGINT))
        engine.generate("And now?", max_tokens=4)
    assert type(raised.value) is KeyboardInterrupt  # not Interrupted, which would carry a run
    paused.go_on()
    assert paused.view.wait().finish_reason == "length"


def test_what_waits_can_be_stopped(engine: Engine) -> None:
    """A watched run and a chat's question stop waiting, and the run before them continues."""
    paused = PausedRun(engine)
    chat = Chat(engine, max_tokens=2)
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            chat.send("Hello")
        except EngineBusy as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while not chat.runner.busy:
        pass
    chat.stop()
    asking.join(WAIT_S)
    assert "stopped while it waited" in str(failed[0]) and chat.messages == []
    chat.close()
    paused.go_on()
    assert paused.view.wait().generated == 6


def test_an_awaited_run_that_is_cancelled_waits_no_more(engine: Engine) -> None:
    """Cancelling stops only its own run."""
    paused = PausedRun(engine)

    async def cancelled() -> None:
        task = asyncio.create_task(engine.agenerate("Hello", max_tokens=2))
        await asyncio.sleep(0.2)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    paused.go_on()
    assert paused.view.wait().generated == 6


def test_runs_that_wait_for_a_closed_engine_raise(engine: Engine) -> None:
    """The active run is stopped, and no other begins."""
    paused = PausedRun(engine)
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            engine.generate("Hello")
        except EngineClosed as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    soon(paused.go_on)
    engine.close()
    asking.join(WAIT_S)
    assert failed and engine.closed
