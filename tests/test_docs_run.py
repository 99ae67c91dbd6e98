"""What the documents show runs: every block of Python and every cell, page by page, in IPython."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "tutorial").glob("*.md")),
         *sorted((ROOT / "docs" / "how-to").glob("*.md"))]  # fmt: skip
BLOCK = re.compile(r"^```(?:python|ipython)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in json.load(sys.stdin):
    if not shell.run_cell(cell).success:
        sys.exit("failed: " + cell)
"""


def blocks(page: Path) -> list[str]:
    """The code of a page; what is marked `no-run` behind its language is left out."""
    return BLOCK.findall(page.read_text())


WITH_CODE = [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page, tmp_path):
    """In their order, in one IPython of its own, in an empty folder, on the demo model."""
    cells = json.dumps(blocks(page))
    done = subprocess.run([sys.executable, "-c", RUN], input=cells, cwd=tmp_path, text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
