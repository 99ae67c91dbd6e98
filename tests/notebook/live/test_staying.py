"""After a run the same view remains, with a static one saved beside it; how many is bounded."""

from __future__ import annotations

import gc
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

import outlier_jupyter
from outlier_jupyter import Engine, Interrupted
from outlier_jupyter.display import draw
from outlier_jupyter.errors import CheckpointChanged
from outlier_jupyter.events import StepDone
from outlier_jupyter.notebook.live import open_views
from outlier_jupyter.notebook.live.show import show_run
from outlier_jupyter.notebook.live.widget import SAVED_NOTE, LiveView
from outlier_jupyter.notebook.render import displays, places
from outlier_jupyter.notebook.render.static.text import ended_words
from tests.notebook.live.test_widget import FakeComm

WIDGET = "application/vnd.jupyter.widget-view+json"


class Shell:
    """The part of IPython's shell that shows that a front end exists."""

    kernel = object()


class Outputs:
    """The outputs of a page, by display id, in the order of their appearance."""

    def __init__(self) -> None:
        self.now: dict[str, dict[str, str]] = {}
        self.made: list[str] = []
        self.last: dict[str, str] = {}

    def display(
        self, bundle: dict[str, str], raw: bool, display_id: str = "", update: bool = False
    ) -> None:
        assert raw
        if not display_id:
            self.last = bundle
            return
        if not update:
            self.made.append(display_id)
        if display_id in self.made:
            self.now[display_id] = bundle

    def pairs(self) -> list[tuple[dict[str, str], dict[str, str]]]:
        """The outputs of each widget, and of its saved view, oldest first."""
        names = [name for name in self.made if not name.endswith("-widget")]
        return [(self.now[f"{name}-widget"], self.now[name]) for name in names]


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outputs]:
    made = Outputs()
    monkeypatch.setattr(displays, "display", made.display)
    for module in (displays, places):
        monkeypatch.setattr(module, "get_ipython", Shell)
    monkeypatch.setattr(
        "outlier_jupyter.notebook.live.show.display", lambda view: view._ipython_display_()
    )
    for view in open_views.views():  # of other tests
        view.close()
    yield made
    for view in open_views.views():
        view.close()


@pytest.fixture
def engine(tiny: Path, tmp_path: Path) -> Iterator[Engine]:
    folder = shutil.copytree(tiny, tmp_path / "model", copy_function=shutil.copyfile)
    with outlier_jupyter.load(folder, cache_experts=3) as engine:
        engine.tokenizer.eos_token_ids = set()
        yield engine


def test_a_finished_run_keeps_its_view_and_saves_a_static_one(
    engine: Engine, outputs: Outputs
) -> None:
    """The widget is not drawn again, has no text form that a reader without it would show twice,
    and the saved view can be found by it.
    """
    run = show_run(engine, "Hello", {"max_tokens": 3})
    ((widget, saved),) = outputs.pairs()
    assert WIDGET in widget and widget["text/plain"] == ""
    name = outputs.made[1]
    assert f' oj-saved {name}"' in saved["text/html"]
    assert SAVED_NOTE not in run._repr_mimebundle_()["text/html"]
    assert draw("Run.mimebundle", run, SAVED_NOTE)["text/html"] in saved["text/html"]
    assert {"image/png", "text/markdown"} < set(saved) and run.text in saved["text/plain"]
    assert len(outputs.made) == 2


def interrupt(engine: Engine) -> object:
    unsubscribe = engine.subscribe(lambda event: engine.stop(), StepDone)
    with pytest.raises(Interrupted):
        show_run(engine, "Hello", {"max_tokens": 30})
    return unsubscribe()


def fail(engine: Engine) -> object:
    def spoil(event: object) -> None:
        with (Path(engine.info.model) / "model.safetensors").open("r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            stream.write(b"x")

    unsubscribe = engine.subscribe(spoil, StepDone)
    with pytest.raises(CheckpointChanged):
        show_run(engine, "Hello", {"max_tokens": 30})
    return unsubscribe()


def watch(engine: Engine) -> object:
    view = outlier_jupyter.watch(engine, "Hello", max_tokens=100_000)
    view._ipython_display_()
    view.stop()
    with pytest.raises(Interrupted):
        view.wait()
    return view


@pytest.mark.parametrize(("use", "ended"), [(interrupt, 0), (watch, 0), (fail, 1)])
def test_an_interrupted_and_a_failed_run_stay_as_well(
    engine: Engine, outputs: Outputs, use: Callable[[Engine], object], ended: int
) -> None:
    """The partial run is in the view and in the saved one, which says so."""
    use(engine)
    ((widget, saved),) = outputs.pairs()
    reason = ended_words(("interrupted", "error")[ended])
    assert WIDGET in widget and f"<b>{reason}." in saved["text/html"]


def test_a_view_shown_after_the_run_has_both(engine: Engine, outputs: Outputs) -> None:
    """`run.view()` and a watched run displayed again show the widget, and save the static view."""
    engine.generate("Hello", max_tokens=3).view()._ipython_display_()
    view = outlier_jupyter.watch(engine, "Hello", max_tokens=3)
    view.wait()
    view._ipython_display_()
    for widget, saved in outputs.pairs():
        assert WIDGET in widget and "oj-static" in saved["text/html"]
    assert len(outputs.pairs()) == 2
    view.close()
    view._ipython_display_()  # closed: only the saved view is displayed
    assert "oj-static" in outputs.last["text/html"] and len(outputs.pairs()) == 2


def test_a_run_is_a_view_where_a_page_shows_it(
    engine: Engine, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cell's value it is the live view, with the static one saved; in a terminal, in a
    notebook that a program runs, and once after its own cell, it is its bundle.
    """
    show = "outlier_jupyter.notebook.live.show.get_ipython"
    run = engine.generate("Hello", max_tokens=3)
    monkeypatch.setattr(show, Shell)
    run._ipython_display_()
    ((widget, saved),) = outputs.pairs()
    assert WIDGET in widget and "oj-static" in saved["text/html"]
    with pytest.raises(NotImplementedError):
        run.brief_once()._ipython_display_()
    assert set(run._repr_mimebundle_()) == {"text/plain", "text/html"}
    monkeypatch.setattr("outlier_jupyter.notebook.live.show.attended", lambda: False)
    with pytest.raises(NotImplementedError):
        run._ipython_display_()
    monkeypatch.undo()
    with pytest.raises(NotImplementedError):
        run._ipython_display_()
    assert len(outputs.pairs()) == 1


def test_an_exported_notebook_shows_the_static_view_once(engine: Engine, outputs: Outputs) -> None:
    """nbconvert's page has nothing of the widget, and fetches nothing for it."""
    run = show_run(engine, "Hello", {"max_tokens": 3})
    cell = nbformat.v4.new_code_cell("run")
    for bundle in outputs.pairs()[0]:
        cell.outputs.append(nbformat.v4.new_output("display_data", bundle))
    html, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert html.count("Generated text") == 1 and run.finish_reason == "length"
    assert "LiveView(" not in html and "html-manager" not in html


def test_only_what_is_below_a_widget_hides_what_is_above(engine: Engine, outputs: Outputs) -> None:
    """The saved view's rule would hide another output of the cell, where there is no widget."""
    hides = ":has(+.jp-OutputArea-child"
    view = engine.generate("Hello", max_tokens=3).view()
    view._ipython_display_()
    assert hides in outputs.pairs()[0][1]["text/html"]
    view.close()
    view._ipython_display_()
    assert "oj-static" in outputs.last["text/html"] and hides not in outputs.last["text/html"]
    other = engine.generate("Hello", max_tokens=3).view()
    other.show(widget=False)
    other.keep_run(other.finished_run)
    assert hides not in outputs.now[other.view_id]["text/html"]


def test_the_newest_views_stay_open(
    engine: Engine, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one is closed, and its static view remains in its place."""
    monkeypatch.setattr(open_views, "KEPT", 2)
    for _ in range(4):
        show_run(engine, "Hello", {"max_tokens": 2})
    pairs = outputs.pairs()
    assert [WIDGET in widget for widget, _ in pairs] == [False, False, True, True]
    assert all("oj-static" in saved["text/html"] for _, saved in pairs)


def test_large_traces_bound_the_views(
    engine: Engine, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of their traces are bounded too; the newest stays whatever its size."""
    monkeypatch.setattr(open_views, "KEPT_NBYTES", 1)
    running = LiveView()
    running._ipython_display_()
    for _ in range(2):
        show_run(engine, "Hello", {"max_tokens": 2})
    assert [WIDGET in widget for widget, _ in outputs.pairs()] == [True, False, True]
    running.close()


def test_a_view_that_stays_keeps_no_engine(tiny: Path, outputs: Outputs) -> None:
    """After the model is unloaded, the view explains, and the engine's memory is free."""
    engine = outlier_jupyter.load(str(tiny), cache_experts=6)
    show_run(engine, "Hello", {"max_tokens": 3})
    engine.close()
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    (view,) = open_views.views()
    view.comm = comm = FakeComm()
    comm.receive({"type": "ask", "about": {"step": 3}})
    ((told, _),) = comm.custom()
    assert "token" in told["words"]


def test_a_page_that_missed_the_saved_view_asks_for_it(engine: Engine, outputs: Outputs) -> None:
    """The trait `saved` is the mark at the end of the newest one, which is sent on request."""
    show_run(engine, "Hello", {"max_tokens": 3})
    (view,) = open_views.views()
    assert view.saved in view.saved_view["text/html"] and view.saved.startswith("oj-")
    view.comm = comm = FakeComm()
    comm.receive({"type": "saved"})
    ((sent, _),) = comm.custom()
    assert sent == {"type": "saved", "data": view.saved_view}
