"""`%outlier report`: write a run as one HTML page."""

from __future__ import annotations

import argparse
from typing import Any

from .command import Command, Session
from .run_selection import add_run, selected_run

REPORT = "outlier-report.html"
"""The default file, in the working folder."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", help=f"the file to write ({REPORT})")
    add_run(parser)


def _run(session: Session, args: dict[str, Any]) -> None:
    session.write(f"{selected_run(session, args).report(args.get('path', REPORT))}\n")


COMMAND = Command(
    "report",
    "write a run as one self-contained HTML page",
    _run,
    _arguments,
    call="`run.report(path)`",
    terminal=True,
    group="watch",
)
