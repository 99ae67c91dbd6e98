"""The kept inputs: small ones, each of which reaches lines of the package that no smaller one does.

`python -m tests.torture.corpus NAME FOLDER…` chooses them anew for a target, from those that are
kept and the files of some folders, as of what a long run left in `build/torture/grown/NAME`.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

CORPUS = Path(__file__).parent / "corpus"
MOST_NBYTES = 20_000
"""Of a target's inputs, packed."""
PACKAGE = str(Path(__file__).parents[2] / "outlier_jupyter")

Line = tuple[str, int]


def kept(name: str) -> list[bytes]:
    """A target's kept inputs, the smallest first."""
    file = CORPUS / f"{name}.zip"
    if not file.exists():
        return []
    with ZipFile(file) as packed:
        return [packed.read(each) for each in packed.namelist()]


def lines_of(name: str, data: bytes) -> set[Line]:
    """The lines of the package that run while a target reads an input."""
    from .targets import ALLOWED, TARGETS

    found: set[Line] = set()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        found.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def entered(frame: FrameType, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(PACKAGE) else None

    with tempfile.TemporaryDirectory() as folder:
        before = sys.gettrace()
        sys.settrace(entered)
        try:
            with suppress(*ALLOWED):
                TARGETS[name].call(data, Path(folder))
        finally:
            sys.settrace(before)
    return found


def chosen(name: str, inputs: list[bytes]) -> list[bytes]:
    """Those of the inputs, from the smallest on, that reach lines of their own."""
    from .targets import TARGETS

    reached: set[Line] = set()
    for _ in range(2):  # the first time imports and compiles
        for data in TARGETS[name].seeds():
            reached |= lines_of(name, data)
    out = []
    for data in sorted(set(inputs), key=lambda each: (len(each), each)):
        if new := lines_of(name, data) - reached:
            reached |= new
            out.append(data)
    return out


def write(name: str, inputs: list[bytes]) -> int:
    """Pack inputs as a target's kept ones, as many as there is room for; how many that are."""
    CORPUS.mkdir(exist_ok=True)
    nbytes = count = 0
    with ZipFile(CORPUS / f"{name}.zip", "w", ZIP_DEFLATED, compresslevel=9) as packed:
        for number, data in enumerate(inputs):
            entry = ZipInfo(f"{number:03}")  # of a fixed date, so that the file stays the same
            entry.compress_type = ZIP_DEFLATED
            packed.writestr(entry, data)
            nbytes += entry.compress_size + 100
            count += 1
            if nbytes > MOST_NBYTES:
                break
    return count


def main(name: str, *folders: str) -> None:
    """Choose and write."""
    found = [file.read_bytes() for folder in folders for file in sorted(Path(folder).iterdir())]
    best = chosen(name, [*kept(name), *found])
    sys.stdout.write(f"{name}: {write(name, best)} of {len(found)} inputs are kept\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
