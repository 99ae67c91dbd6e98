"""`make quick` finds the tests of the changed files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("outlier_jupyter/paging/pager.py", "tests/paging"),
        ("outlier_jupyter/cpu/kernels/rows.py", "tests/cpu/kernels"),
        ("outlier_jupyter/notebook/chat/turn.py", "tests/notebook/chat"),
        ("outlier_jupyter/notebook/magics.py", "tests/notebook"),
        ("outlier_jupyter/errors.py", "None"),
        ("tests/trace/made.py", "tests/trace"),
        ("tests/test_house.py", "tests/test_house.py"),
        ("README.md", "None"),
    ],
)
def test_a_file_s_tests_are_those_of_its_room(file, tests):
    """The tests of its room, or of a room within a room, and always those of the house."""
    code = "import sys, pathlib, quick; print(quick.tests_of(pathlib.Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, file], cwd=ROOT / "tools", capture_output=True, text=True
    )
    assert done.stdout.strip() == tests, done.stderr
