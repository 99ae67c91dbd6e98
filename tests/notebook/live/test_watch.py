"""`watch`: a run on a thread of its own, in the view that it returns at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import IPython
import pytest

import outlier_jupyter
from outlier_jupyter import Engine, Interrupted
from outlier_jupyter.errors import EngineClosed, OptionError, OutlierError
from outlier_jupyter.events import PromptEncoded, StepDone
from outlier_jupyter.notebook.live.frames import decode
from tests.inspection import change_end


@pytest.fixture
def engine(tiny: Path) -> Iterator[Engine]:
    """A tiny model whose runs do not end by themselves."""
    with outlier_jupyter.load(str(tiny), cache_experts=6) as engine:
        engine.tokenizer.eos_token_ids = set()
        yield engine


def test_the_run_is_that_of_generate(engine: Engine) -> None:
    """The tokens are the same; the view ends with the run's reason and shows all of it."""
    wanted = engine.generate("Hello", max_tokens=6)
    seen: list[str] = []
    view = outlier_jupyter.watch(engine, "Hello", max_tokens=6)
    view.observe(lambda change: seen.append(change["new"]), "status")
    run = view.wait()
    assert run.text == wanted.text and run.tokens.tolist() == wanted.tokens.tolist()
    assert view.run is run and view.status == "length" and seen[-1] == "length"
    assert decode(view.snapshot).text == run.text


def test_a_pace_is_the_views_and_changes_no_token(engine: Engine) -> None:
    """The page is told the pace that was asked for; the run is that of `generate`."""
    wanted = engine.generate("Hello", max_tokens=6)
    view = outlier_jupyter.watch(engine, "Hello", max_tokens=6, pace=0.5)
    assert view.info["pace"] == 0.5
    assert view.wait().tokens.tolist() == wanted.tokens.tolist()
    with pytest.raises(OptionError, match="pace=-1"):
        outlier_jupyter.watch(engine, "Hello", pace=-1)


def test_stop_before_the_run_begins_and_in_the_middle(engine: Engine) -> None:
    """A stop takes effect in the middle of a run, and before the run begins."""
    asked_at: list[int] = []

    def count(event: object) -> None:
        if isinstance(event, StepDone):
            asked_at.append(1)
            if len(asked_at) == 20:
                view.stop()

    unsubscribe = engine.subscribe(count)
    view = outlier_jupyter.watch(engine, "Hello", max_tokens=100_000)
    with pytest.raises(Interrupted):
        view.wait()
    unsubscribe()
    assert view.run is not None and view.status == "interrupted"
    assert len(asked_at) == 20  # no step follows the stop
    first = outlier_jupyter.watch(engine, "Hello", max_tokens=100_000)
    second = outlier_jupyter.watch(engine, "Hello", max_tokens=100_000)
    second.stop()
    first.stop()
    with pytest.raises(Interrupted) as stopped:
        second.wait()
    assert stopped.value.run.generated == 0


def test_runs_of_one_engine_wait_for_each_other(engine: Engine) -> None:
    """Two that are started at once both finish, in order."""
    order: list[str] = []
    views = []
    for prompt in ("one", "two"):
        view = outlier_jupyter.watch(engine, prompt, max_tokens=5)
        view.observe(lambda change: order.append(change["owner"].info["prompt"]), "status")
        views.append(view)
    assert [view.wait().prompt for view in views] == ["one", "two"]
    assert [name for name, after in zip(order, [*order[1:], ""], strict=True) if name != after] == [
        "one", "two",
    ]  # fmt: skip


def in_cell(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make the code from here on run in the cell `name`, as far as the front end says."""
    request = {"metadata": {"cellId": name}, "header": {"msg_id": uuid.uuid4().hex}}
    shell = SimpleNamespace(parent_header=request)
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)


def test_a_cell_that_is_run_again_supersedes_its_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run is stopped; one that another cell began is waited for."""
    in_cell(monkeypatch, "a")
    first = outlier_jupyter.watch(engine, "Hello", max_tokens=100_000)
    in_cell(monkeypatch, "b")
    other = outlier_jupyter.watch(engine, "Hello", max_tokens=3)
    in_cell(monkeypatch, "a")
    again = outlier_jupyter.watch(engine, "Hello", max_tokens=3)
    assert again.wait().generated == 3 and other.wait().generated == 3
    assert first.status == "interrupted"


def test_a_cell_may_begin_several_runs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run one after another; all of them are stopped when the cell is run again."""
    in_cell(monkeypatch, "a")
    views = [outlier_jupyter.watch(engine, "Hello", max_tokens=3) for _ in range(2)]
    assert [view.wait().generated for view in views] == [3, 3]
    endless = [outlier_jupyter.watch(engine, "Hello", max_tokens=100_000) for _ in range(2)]
    in_cell(monkeypatch, "a")
    assert outlier_jupyter.watch(engine, "Hello", max_tokens=3).wait().generated == 3
    assert [view.status for view in endless] == ["interrupted"] * 2


def test_an_interrupt_of_wait_stops_the_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a cell waits: the run is stopped, kept, and raised as Interrupted."""
    view = outlier_jupyter.watch(engine, "Hello", max_tokens=100_000)

    class Once:
        """An event whose first wait is interrupted."""

        def __init__(self, event: threading.Event) -> None:
            self.event, self.times = event, 0
            self.is_set, self.set = event.is_set, event.set

        def wait(self) -> bool:
            self.times += 1
            if self.times == 1:
                raise KeyboardInterrupt
            return self.event.wait()

    change_end(monkeypatch, view, Once)
    with pytest.raises(Interrupted):
        view.wait()


def test_what_cannot_be_run_is_refused_in_the_cell(engine: Engine) -> None:
    """Bad options, a closed engine and something that is no engine raise at once."""
    with pytest.raises(OptionError, match="max_tokens"):
        outlier_jupyter.watch(engine, "Hello", max_tokens=0)
    with pytest.raises(OptionError, match="is not an engine"):
        outlier_jupyter.watch("demo", "Hello")
    waiting = outlier_jupyter.watch(engine, "Hello", max_tokens=100_000)
    behind = outlier_jupyter.watch(engine, "Hello", max_tokens=3)
    begun = threading.Event()
    engine.subscribe(lambda event: begun.set() if isinstance(event, PromptEncoded) else None)
    waiting.stop()
    behind.wait()
    engine.close()
    with pytest.raises(EngineClosed):
        outlier_jupyter.watch(engine, "Hello")


def test_an_observer_may_not_wait_for_its_own_run(engine: Engine) -> None:
    """The wait would never end; it is refused with an error."""
    told: list[BaseException] = []

    def observe(_: object) -> None:
        try:
            view.wait()
        except OutlierError as error:
            told.append(error)

    gate = outlier_jupyter.watch(engine, "Hello", max_tokens=50)
    view = outlier_jupyter.watch(engine, "Hello", max_tokens=2)
    view.observe(observe, "status")
    gate.wait()
    view.wait()
    assert told and "would wait for itself" in str(told[0])


@pytest.mark.parametrize(
    "use",
    [
        "outlier_jupyter.watch(engine, 'Hello', max_tokens=3).wait()",
        "chat = outlier_jupyter.Chat(engine); chat.send('a', max_tokens=3); chat.send('b')",
        "for _ in 'ab': asyncio.run(engine.agenerate('Hello', max_tokens=3))",
    ],
    ids=["watch", "chat", "agenerate"],
)
def test_a_process_that_used_threads_ends_well(tiny: Path, use: str) -> None:
    """A thread's MLX state is freed with it: otherwise it usually aborts the process."""
    head = f"import asyncio, outlier_jupyter; engine = outlier_jupyter.load({str(tiny)!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"{head}\n{use}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
