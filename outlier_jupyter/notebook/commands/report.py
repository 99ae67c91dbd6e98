"""`%outlier report`: write a run as one HTML page."""

from __future__ import annotations

import argparse
from typing import Any

from .command import Command, Session
from .run_selection import add_run, run_and_file

REPORT = "outlier-report.html"
"""The default file, in the working folder."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", default=REPORT,
        help=f"the file to write ({REPORT}), or the variable that holds the run: NAME.html",
    )  # fmt: skip
    add_run(parser)


def _run(session: Session, args: dict[str, Any]) -> None:
    run, path = run_and_file(session, args, ".html")
    session.write(f"{run.report(path)}\n")


COMMAND = Command(
    "report",
    "write a run as one self-contained HTML page",
    _run,
    _arguments,
    call="`run.report(path)`",
    terminal=True,
    group="watch",
)
