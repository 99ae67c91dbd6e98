"""`%outlier report`: a run as one page of HTML."""

from __future__ import annotations

import argparse
from typing import Any

from .command import Command, Session
from .which_run import add_run, the_run

REPORT = "outlier-report.html"
"""Where it is written, in the working folder, when no path is given."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", help=f"the file; {REPORT} if left out")
    add_run(parser)


def _run(session: Session, given: dict[str, Any]) -> None:
    session.write(f"{the_run(session, given).report(given.get('path', REPORT))}\n")


COMMAND = Command(
    "report",
    "write a run to one page of HTML that needs nothing else",
    _run,
    _arguments,
    call="`run.report(path)`",
    terminal=True,
)
