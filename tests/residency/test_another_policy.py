"""A policy from outside, in one file, appears wherever the package's own policies do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import outlier_jupyter
from outlier_jupyter.notebook.commands import COMMANDS
from outlier_jupyter.notebook.render.figures.cache_sizes import sizes_figure
from outlier_jupyter.notebook.render.static.report import report
from outlier_jupyter.residency.policies import POLICIES
from outlier_jupyter.runs.run import Run
from tests.residency import first_in


@pytest.fixture
def run(tiny: Path) -> Iterator[Run]:
    first_in.add()
    try:
        with outlier_jupyter.load(tiny, cache_experts=6, policy="first-in", quiet=True) as engine:
            yield engine.generate("Which expert goes?", raw=True, max_tokens=6)
    finally:
        del POLICIES["first-in"]


def test_an_engine_runs_with_it_and_the_replay_is_the_run(run: Run) -> None:
    """It evicts in its own order, logits stay exact, and `what_if` finds the run's own hits."""
    assert run.trace.info.policy == "first-in"
    found = run.trace.what_if([6], ["first-in"])
    assert found.hits.item() == run.trace.hits.sum()


def test_it_is_in_tables_figures_and_report(run: Run) -> None:
    """It is listed by its name or its label, beside the others."""
    assert set(run.trace.what_if([6, 12]).policy) == set(POLICIES) > {"first-in"}
    names = {line.name for line in sizes_figure(run.trace, [6, 12], None).data}
    assert "first in, first out" in names
    assert "first-in: hit rate" in report(run)


def test_it_is_in_help_and_flags(run: Run) -> None:
    """The magic's parser offers it, and its help describes what it keeps."""
    text = COMMANDS["load"].parser().format_help()
    assert "first-in" in text and "the newest stay" in " ".join(text.split())
    assert "first-in" in COMMANDS["what-if"].parser().format_help()
