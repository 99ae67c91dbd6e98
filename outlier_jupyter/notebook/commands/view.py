"""`%outlier view`: a finished run in the live view."""

from __future__ import annotations

import argparse
from typing import Any

from .command import Command, Session
from .parsing import add_output
from .which_run import add_run, the_run


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "LiveView")
    add_run(parser)


def _run(session: Session, given: dict[str, Any]) -> object:
    return the_run(session, given).view()


COMMAND = Command(
    "view",
    "a run in the live view, to scrub through, replay and look into",
    _run,
    _arguments,
    "Show a run in the live view, to scrub through, replay and look into.",
    call="`run.view()`, `run.trace.view()`",
)
