"""`%outlier view`: show a finished run in the live view, or two side by side."""

from __future__ import annotations

import argparse
from typing import Any

from ...errors import OptionError
from ...runs.run import Run
from ..live.side_by_side import side_by_side
from .command import Command, Session
from .parsing import add_output, add_pace, variable
from .run_selection import add_run, runs_named, selected_run


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "view")
    add_pace(parser)
    parser.add_argument(
        "runs", nargs="*", type=variable, help="a variable that holds a run, or two side by side"
    )
    add_run(parser)


def _run(session: Session, args: dict[str, Any]) -> object:
    pace = args.pop("pace", None)
    runs = runs_named(args.get("runs", ()), session.variables)
    if not runs:
        return selected_run(session, args).view(pace)
    if len(runs) > 2 or args.get("run") is not None:
        raise OptionError("view shows one run or two: give at most two names, without --run")
    one, *others = runs.values()
    if others:
        return side_by_side(one, others[0], list(runs))
    return (one if isinstance(one, Run) else Run.of(one)).view(pace)


COMMAND = Command(
    "view",
    "show a finished run in the live view, to scrub, replay and inspect",
    _run,
    _arguments,
    group="watch",
    call="`run.view(pace=8)`, `run.view(beside=other)`, `run.trace.view()`",
)
