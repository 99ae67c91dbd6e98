"""`%outlier explain`: why a token took so long."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ...errors import OptionError
from ...runs.run import produced_by
from ...trace.explain import Explanation, slowest
from .command import Command, Session
from .parsing import add_output
from .which_run import add_run, the_run


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "token", type=int, nargs="?",
        help="its number as the live view counts; left out, the slowest",
    )  # fmt: skip
    parser.add_argument(
        "--memory-rate", type=float, metavar="BYTES",
        help="a second that memory gives, where nobody has measured it here",
    )  # fmt: skip
    add_output(parser, "Explanation")
    add_run(parser)


def _run(session: Session, given: dict[str, Any]) -> Explanation:
    run = the_run(session, given)
    token = given.get("token")
    if token is None:
        slow = [step for step in slowest(run.trace, run.trace.steps).tolist()
                if step in produced_by(run.trace)]  # fmt: skip
        if not slow:
            raise OptionError("this run decoded no token: there is nothing to explain")
        token = int(np.flatnonzero(produced_by(run.trace) == slow[0])[0]) + 1
    return run.explain(token, given.get("memory_rate"))


COMMAND = Command(
    "explain",
    "why a token of a run took so long: its parts, its layers, its reads",
    _run,
    _arguments,
    "Say why a token of a run took so long: its parts, its layers, its reads.",
    call="`run.explain(token)`, `run.trace.explain(step)`",
    terminal=True,
)
