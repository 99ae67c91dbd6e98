"""A command from outside, in one file, appears wherever the package's own do."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.commands import COMMANDS, help_text
from outlier_jupyter.notebook.completion import completions
from tests.notebook.commands import busiest


@pytest.fixture
def shell_with_it(shell) -> Iterator[object]:
    busiest.add()
    shell.run_line_magic("load_ext", "outlier_jupyter")
    try:
        yield shell
    finally:
        shell.run_line_magic("unload_ext", "outlier_jupyter")
        shell.user_ns.pop("run", None)
        del COMMANDS["busiest"]


def test_it_runs_and_refuses_as_every_command(shell_with_it, make_trace) -> None:
    """It takes a run in a variable and its own flags, and refuses unknown input in a sentence."""
    trace = shell_with_it.user_ns["run"] = make_trace()
    found = shell_with_it.run_line_magic("outlier", "busiest --run run --layer 1")
    assert found == max(range(16), key=(trace.experts[:, 1].ravel().tolist()).count)
    with pytest.raises(OptionError, match="see %outlier busiest --help"):
        shell_with_it.run_line_magic("outlier", "busiest --layers 1")


def test_it_is_in_help_and_completion(shell_with_it) -> None:
    """Its name, its line of help and its flags are there."""
    text = help_text()
    assert "the expert that a run used most" in text[text.index("\nMore\n") :]
    assert completions("%outlier bus") == [("busiest", "command")]
    assert completions("%outlier busiest --la") == [("--layer", "flag")]


def test_it_is_in_the_reference(shell_with_it) -> None:
    """The reference has its Python equivalent and its flags."""
    file = Path(__file__).parents[3] / "docs" / "_ext" / "command_pages.py"
    spec = importlib.util.spec_from_file_location("command_pages", file)
    assert spec is not None and spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    row = "| the expert that a run used most | `run.trace.experts` |"
    assert f"| [`%outlier busiest`](#busiest) {row}" in pages.commands()
    assert "## `%outlier busiest`" in pages.flags() and "`--layer N`" in pages.flags()
