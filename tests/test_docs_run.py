"""Runs every block of Python and every cell of the documents, page by page, in IPython."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs" / "tutorial").glob("*.md")),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]
BLOCK = re.compile(r"^```(?:python|ipython)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""Blocks of code, but for those marked `no-run` after their language."""
CODE = {
    str(page.relative_to(ROOT)): blocks
    for page in PAGES
    if (blocks := BLOCK.findall(page.read_text()))
}
RUN = """
import json, os, sys, tempfile
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
pages, failed = json.load(sys.stdin), {}
for page, cells in pages.items():
    os.chdir(tempfile.mkdtemp(dir=sys.argv[1]))
    bad = next((cell for cell in cells if not shell.run_cell(cell).success), None)
    if bad is not None:
        failed[page] = bad
    if "outlier_jupyter" in shell.extension_manager.loaded:
        shell.run_line_magic("unload_ext", "outlier_jupyter")
    shell.reset()
with open(os.path.join(sys.argv[1], "failed.json"), "w") as file:
    json.dump(failed, file)
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Page → the first of its blocks that failed; each page has empty names and an empty folder."""
    folder = tmp_path_factory.mktemp("pages")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder)],
        input=json.dumps(CODE),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)  # pytest shows it if a page fails  # noqa: T201
    return dict(json.loads((folder / "failed.json").read_text()))


@pytest.mark.parametrize("page", CODE)
def test_the_examples_of_a_page_run(page: str, failed: dict[str, str]) -> None:
    """All run in their order, on the demo model."""
    assert page not in failed, failed[page]
