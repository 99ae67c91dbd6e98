"""`%outlier view`: show a finished run in the live view."""

from __future__ import annotations

import argparse
from typing import Any

from .command import Command, Session
from .parsing import add_output
from .run_selection import add_run, selected_run


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "LiveView")
    add_run(parser)


def _run(session: Session, args: dict[str, Any]) -> object:
    return selected_run(session, args).view()


COMMAND = Command(
    "view",
    "show a finished run in the live view, to scrub, replay and inspect",
    _run,
    _arguments,
    call="`run.view()`, `run.trace.view()`",
    group="watch",
)
