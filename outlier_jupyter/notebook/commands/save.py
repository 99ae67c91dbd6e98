"""`%outlier save`: save a run as one file."""

from __future__ import annotations

import argparse
from typing import Any

from .command import Command, Session
from .run_selection import add_run, run_and_file


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", help="the file to write, or the variable that holds the run: NAME.safetensors"
    )
    add_run(parser)


def _run(session: Session, args: dict[str, Any]) -> None:
    run, path = run_and_file(session, args, ".safetensors")
    session.write(f"{run.save(path)}\n")


COMMAND = Command(
    "save",
    "save a run, its trace and texts, to one file",
    _run,
    _arguments,
    call="`run.save(path)`, `run.trace.save(path)`",
    group="watch",
)
