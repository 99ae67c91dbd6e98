"""`%outlier save`: a run as one file."""

from __future__ import annotations

import argparse
from typing import Any

from .command import Command, Session
from .which_run import add_run, the_run


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="the file")
    add_run(parser)


def _run(session: Session, given: dict[str, Any]) -> None:
    session.write(f"{the_run(session, given).save(given['path'])}\n")


COMMAND = Command(
    "save",
    "write a run to one file: its trace and its texts",
    _run,
    _arguments,
    call="`run.save(path)`, `run.trace.save(path)`",
)
