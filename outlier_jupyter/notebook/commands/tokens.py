"""`%outlier tokens`: list the experts of a token or a range of tokens."""

from __future__ import annotations

import argparse
from typing import Any

from ...runs.token_experts import TokenExperts, experts_of
from .command import Command, Session
from .parsing import add_output
from .run_selection import add_run, selected_run


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tokens", type=_span, metavar="FIRST:LAST",
        help="numbers as in the live view; without LAST",
    )  # fmt: skip
    add_output(parser, "TokenExperts")
    add_run(parser)


def _span(text: str) -> int | slice:
    """Parse `5` into 5 and `5:9` into slice(5, 9)."""
    parts = text.split(":")
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a token or FIRST:LAST, such as 5:9")
    return int(parts[0]) if len(parts) == 1 else slice(int(parts[0]), int(parts[1]))


def _run(session: Session, args: dict[str, Any]) -> TokenExperts:
    return experts_of(selected_run(session, args), args["tokens"])


COMMAND = Command(
    "tokens",
    "list the experts that a token, or a range FIRST:LAST, chose",
    _run,
    _arguments,
    call="`run.experts_of(slice(first, last))`, `outlier_jupyter.experts_of(run, tokens)`",
    terminal=True,
    group="explain",
)
