"""The command line and the output of the scripts that measure one thing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from .results import Row, append


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser described by a module's first line, with `--rounds` and `--keep`."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--keep", action="store_true", help="append rows to benchmarks/results")
    return made


def print_rows(name: str, rows: Iterable[Row], keep: bool) -> None:
    """Print each row once it is measured; append all of them to the results of `name` to `keep`."""
    printed = []
    for row in rows:
        printed.append(row)
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
    if keep:
        append(name, printed)
