"""A command from outside the package, in one file: it finds the expert that a run used most."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from outlier_jupyter.notebook.commands import Command, Session, register
from outlier_jupyter.notebook.commands.run_selection import add_run, selected_run


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layer", type=int, metavar="N", help="of this layer (0)")
    add_run(parser)


def _run(session: Session, args: dict[str, Any]) -> int:
    chosen = selected_run(session, args).trace.experts[:, args.get("layer", 0)]
    return int(np.bincount(chosen[chosen >= 0]).argmax())


COMMAND = Command(
    "busiest",
    "the expert that a run used most",
    _run,
    _arguments,
    call="`run.trace.experts`",
)


def add() -> None:
    """Add the command."""
    register(COMMAND)
