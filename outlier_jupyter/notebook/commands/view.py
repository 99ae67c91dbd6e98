"""`%outlier view`: show a finished run in the live view."""

from __future__ import annotations

import argparse
from typing import Any

from .command import Command, Session
from .parsing import add_output, add_pace
from .run_selection import add_run, selected_run


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "LiveView")
    add_pace(parser)
    add_run(parser)


def _run(session: Session, args: dict[str, Any]) -> object:
    return selected_run(session, args).view(pace=args.pop("pace", None))


COMMAND = Command(
    "view",
    "show a finished run in the live view, to scrub, replay and inspect",
    _run,
    _arguments,
    group="watch",
    call="`run.view(pace=8)`, `run.trace.view()`",
)
