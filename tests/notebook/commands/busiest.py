"""A command from outside the package, in one file: which expert a run used most."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from outlier_jupyter.notebook.commands import Command, Session, register
from outlier_jupyter.notebook.commands.which_run import add_run, the_run


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layer", type=int, metavar="N", help="of this layer (0)")
    add_run(parser)


def _run(session: Session, given: dict[str, Any]) -> int:
    chosen = the_run(session, given).trace.experts[:, given.get("layer", 0)]
    return int(np.bincount(chosen[chosen >= 0]).argmax())


COMMAND = Command(
    "busiest",
    "the expert that a run used most",
    _run,
    _arguments,
    call="`run.trace.experts`",
)


def add() -> None:
    """Offer it."""
    register(COMMAND)
