"""`%outlier tokens`: the experts of a token or a span."""

from __future__ import annotations

import argparse
from typing import Any

from ...runs.token_experts import TokenExperts, experts_of
from .command import Command, Session
from .parsing import add_output
from .which_run import add_run, the_run


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tokens", type=_span, metavar="FIRST:LAST", help="numbers as the live view counts"
    )
    add_output(parser, "TokenExperts")
    add_run(parser)


def _span(text: str) -> int | slice:
    """`5` as 5, `5:9` as the tokens 5 to 9."""
    parts = text.split(":")
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no token or FIRST:LAST, such as 5:9")
    return int(parts[0]) if len(parts) == 1 else slice(int(parts[0]), int(parts[1]))


def _run(session: Session, given: dict[str, Any]) -> TokenExperts:
    return experts_of(the_run(session, given), given["tokens"])


COMMAND = Command(
    "tokens",
    "the experts that a token or a span, FIRST:LAST, chose",
    _run,
    _arguments,
    "Say the experts that a token or a span, FIRST:LAST, chose.",
    call="`run.experts_of(slice(first, last))`, `outlier_jupyter.experts_of(run, tokens)`",
    terminal=True,
)
