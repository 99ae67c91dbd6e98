"""Every example notebook runs unchanged, and its page shows the results without a kernel."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.fixture(scope="session", params=NOTEBOOKS, ids=lambda path: path.stem)
def page(request, tmp_path_factory):
    """(what was printed, the HTML page) of one notebook, run by the tool `make demo` runs."""
    html = tmp_path_factory.mktemp("examples") / f"{request.param.stem}.html"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "run_example.py"), str(request.param), str(html)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, html.read_text()


def test_an_example_runs_and_prints_its_summary(page):
    """The tool prints the page's path and the headline numbers."""
    printed, _ = page
    assert "tokens/s" in printed and "hit rate" in printed and "read latency p50" in printed


def test_the_page_shows_text_and_plots_without_a_kernel(page):
    """Generated text and the three plots are in the page, and nothing in it is fetched."""
    _, html = page
    for title in ("Routing frequency", "Residency at the end", "Read latency per token"):
        assert title in html
    assert "Generated text" in html
    assert not re.search(r"<(script|img|link)[^>]* (src|href)=.?https?:", html)
    # Neither a widget, which needs a kernel, nor a widget manager, which needs a network.
    assert '<script type="application/vnd.jupyter' not in html and "html-manager" not in html


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_examples_are_committed_without_outputs(path):
    """Outputs would grow the history and go stale."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)
