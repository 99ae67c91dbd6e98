"""`%outlier expert`: list the tokens that chose an expert."""

from __future__ import annotations

import argparse
from typing import Any

from ...runs.token_experts import ExpertUses, tokens_of
from .command import Command, Session
from .parsing import add_output
from .run_selection import add_runs, selected_runs


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expert", type=_pair, metavar="LAYER:EXPERT", help="counted from 0")
    add_runs(parser)
    add_output(parser, "ExpertUses")


def _pair(text: str) -> tuple[int, int]:
    """Parse `12:37` into (12, 37): layer and expert."""
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not LAYER:EXPERT, such as 12:37")
    return int(parts[0]), int(parts[1])


def _run(session: Session, args: dict[str, Any]) -> ExpertUses:
    layer, number = args["expert"]
    return tokens_of(selected_runs(session, args), layer, number)


COMMAND = Command(
    "expert",
    "list the tokens that chose an expert, LAYER:EXPERT, in one or more runs",
    _run,
    _arguments,
    call="`outlier_jupyter.tokens_of(runs, layer, expert)`, `run.tokens_of(layer, expert)`",
    terminal=True,
    group="explain",
)
