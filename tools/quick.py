"""Run the checks that a change to one room needs, in under two minutes: `make quick`.

A room is a subpackage. The rooms are those of the files that differ from the last commit, or else
of the files that it changed; `make quick ROOM=paging` names one. Tests marked `slow` and those that
need a browser or a Jupyter kernel run only in `make test`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALWAYS = ("tests/test_house.py", "tests/test_docs.py")
DEEPER = ("notebook", "cpu")
"""Rooms that contain further rooms."""


def changed() -> list[Path]:
    """The files that differ from the last commit, else those that it changed."""
    lines = git("status", "--porcelain", "--untracked-files=all", "--no-renames").splitlines()
    names = [line[3:] for line in lines] or git("show", "--format=", "--name-only").splitlines()
    return [Path(name) for name in names]


def git(*what: str) -> str:
    """The output of a git command."""
    return subprocess.run(["git", *what], cwd=ROOT, capture_output=True, text=True).stdout


def tests_of(file: Path) -> Path | None:
    """The file or folder of tests for a change of `file`, a path from the root; None for none."""
    top, *below = file.parts
    if top == "tests" and file.suffix == ".py" and len(below) == 1:
        return file if file.name.startswith("test_") else None
    if top not in ("outlier_jupyter", "tests") or len(below) < 2:
        return None
    deep = 2 if below[0] in DEEPER and len(below) > 2 else 1
    place = Path("tests", *below[:deep])
    return place if (ROOT / place).is_dir() else Path("tests", below[0])


def main(rooms: list[str]) -> int:
    """Lint, types, and the tests of `rooms`; the exit status of the first that fails, or 0."""
    if rooms:
        places = {Path("tests") / room for room in rooms}
        if missing := [str(place) for place in places if not (ROOT / place).exists()]:
            sys.stderr.write(f"there is no {missing[0]}: ROOM is a folder of tests/: paging …\n")
            return 2
    else:
        places = {place for file in changed() if (place := tests_of(file)) is not None}
    tests = [place for place in sorted(map(str, places)) if (ROOT / place).exists()]
    sys.stdout.write(f"tests of {', '.join(tests) or 'the house and the documents'}\n")
    for command in (
        ["ruff", "format", "--check", "."],
        ["ruff", "check", "."],
        ["mypy"],
        [sys.executable, "-m", "pytest", "-n2", "-m", "not alone and not slow", *ALWAYS, *tests],
    ):
        if status := subprocess.run(command, cwd=ROOT).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
