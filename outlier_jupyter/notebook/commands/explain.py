"""`%outlier explain`: explain the time of a token."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ...errors import OptionError
from ...runs.run import produced_by
from ...trace.explain import Explanation, slowest
from .command import Command, Session
from .parsing import add_output
from .run_selection import add_run, selected_run


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "token", type=int, nargs="?",
        help="the token's number in the live view (default: the slowest)",
    )  # fmt: skip
    parser.add_argument(
        "--memory-rate", type=float, metavar="BYTES",
        help="memory bandwidth in bytes/s, if it was not measured on this machine",
    )  # fmt: skip
    add_output(parser, "Explanation")
    add_run(parser)


def _run(session: Session, args: dict[str, Any]) -> Explanation:
    run = selected_run(session, args)
    token = args.get("token")
    if token is None:
        slow = [step for step in slowest(run.trace, run.trace.steps).tolist()
                if step in produced_by(run.trace)]  # fmt: skip
        if not slow:
            raise OptionError("this run decoded no token: there is nothing to explain")
        token = int(np.flatnonzero(produced_by(run.trace) == slow[0])[0]) + 1
    return run.explain(token, args.get("memory_rate"))


COMMAND = Command(
    "explain",
    "explain why a token took so long: parts of its time, layers, reads",
    _run,
    _arguments,
    call="`run.explain(token)`, `run.trace.explain(step)`",
    terminal=True,
    group="explain",
)
