"""`%outlier expert`: what an expert is for."""

from __future__ import annotations

import argparse
from typing import Any

from ...runs.token_experts import ExpertUses, tokens_of
from .command import Command, Session
from .parsing import add_output
from .which_run import add_runs, the_runs


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expert", type=_pair, metavar="LAYER:EXPERT", help="counted from 0")
    add_runs(parser)
    add_output(parser, "ExpertUses")


def _pair(text: str) -> tuple[int, int]:
    """`12:37` as (12, 37), a layer and an expert."""
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no LAYER:EXPERT, such as 12:37")
    return int(parts[0]), int(parts[1])


def _run(session: Session, given: dict[str, Any]) -> ExpertUses:
    layer, number = given["expert"]
    return tokens_of(the_runs(session, given), layer, number)


COMMAND = Command(
    "expert",
    "the tokens that chose an expert, LAYER:EXPERT, over all runs in variables",
    _run,
    _arguments,
    "Say the tokens that chose an expert, LAYER:EXPERT, over all runs in variables.",
    call="`outlier_jupyter.tokens_of(runs, layer, expert)`, `run.tokens_of(layer, expert)`",
    terminal=True,
)
