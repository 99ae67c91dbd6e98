"""Two runs in one view: what it refers to, what it saves, and what it refuses."""

from __future__ import annotations

import pytest

import outlier_jupyter
from outlier_jupyter import Engine, Run
from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.live import open_views
from outlier_jupyter.notebook.live.side_by_side import SideBySide
from outlier_jupyter.notebook.page_modules import STATIC
from outlier_jupyter.notebook.render import displays
from tests.notebook.live.test_staying import WIDGET, Outputs, Shell


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> Outputs:
    made = Outputs()
    monkeypatch.setattr(displays, "display", made.display)
    monkeypatch.setattr(displays, "get_ipython", Shell)
    return made


@pytest.fixture(scope="module")
def runs(engine: Engine) -> tuple[Run, Run]:
    one, other = (engine.generate(prompt, max_tokens=4) for prompt in ("Hello", "Goodbye"))
    return one, other


def test_it_refers_to_the_views_of_both_runs(runs: tuple[Run, Run]) -> None:
    """A run, its trace and a view may stand for a run; the names are those given."""
    one, other = runs
    for view in (
        one.view(beside=other),
        outlier_jupyter.side_by_side(one.trace, other.trace, ["before", "after"]),
        outlier_jupyter.side_by_side(one.view(), other.view()),
    ):
        state = view.get_state(["one", "other", "names", "view_id"])
        assert state["one"] == f"IPY_MODEL_{view.one.model_id}" != state["other"]
        assert view.one.over and view.other.over and view.other.snapshot
        assert view.names in (["A", "B"], ["before", "after"])


def test_a_saved_notebook_has_the_static_views_of_both(
    runs: tuple[Run, Run], outputs: Outputs
) -> None:
    """One below the other, under their names, which are text."""
    view = outlier_jupyter.side_by_side(*runs, names=["<b>x</b>", "other"])
    view._ipython_display_()
    ((widget, saved),) = outputs.pairs()
    assert WIDGET in widget
    html = saved["text/html"]
    assert html.count("Generated text") == 2 and "&lt;b&gt;x" in html and "<b>x" not in html
    assert all(run.text in saved["text/plain"] for run in runs)


def test_a_run_that_goes_on_is_saved_at_its_end(engine: Engine, outputs: Outputs) -> None:
    """The saved view appears when both are over."""
    watched = [outlier_jupyter.watch(engine, prompt, max_tokens=40) for prompt in ("a", "b")]
    view: SideBySide = outlier_jupyter.side_by_side(*watched)
    view._ipython_display_()
    for each in watched:
        each.wait()
    ((_, saved),) = outputs.pairs()
    assert saved["text/html"].count("Generated text") == 2


def test_it_counts_among_the_views_that_stay_open(
    runs: tuple[Run, Run], outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one is closed with the views that only it shows; the static views remain."""
    monkeypatch.setattr(open_views, "KEPT", 1)
    shown = runs[0].view()
    first = outlier_jupyter.side_by_side(shown, runs[1])
    first._ipython_display_()
    outlier_jupyter.side_by_side(*runs)._ipython_display_()
    assert first.closed and first.other.closed and not shown.closed
    (old, saved), (new, _) = outputs.pairs()
    assert WIDGET not in old and WIDGET in new and saved["text/html"].count("Generated text") == 2


def test_what_is_no_run_is_refused(runs: tuple[Run, Run]) -> None:
    """One sentence names what was given."""
    with pytest.raises(OptionError, match="'x' is not a run: give a run"):
        runs[0].view(beside="x")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"names=.* two names"):
        outlier_jupyter.side_by_side(*runs, names=["one"])


def test_its_script_is_small() -> None:
    """It fetches nothing, and has at most 120 kB."""
    assert 10_000 < (STATIC / "compare.js").stat().st_size <= 120_000
