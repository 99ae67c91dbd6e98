"""`%outlier open`: open a saved run, or a trace recorded elsewhere."""

from __future__ import annotations

import argparse
from typing import Any

from ...runs.run import Run
from .command import Command, Session
from .parsing import add_output


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="the file to open")
    add_output(parser, "Run")


def _run(session: Session, args: dict[str, Any]) -> Run:
    return Run.load(args["path"])


COMMAND = Command(
    "open",
    "open a saved run, or a trace recorded elsewhere; needs no model",
    _run,
    _arguments,
    call="`outlier_jupyter.Run.load(path)`, `outlier_jupyter.Trace.load(path)`",
    terminal=True,
    group="watch",
)
