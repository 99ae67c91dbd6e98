"""`%outlier compare`: compare runs, with the arguments of `outlier_jupyter.compare`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .command import Command, Session
from .parsing import add_output, variable
from .run_selection import runs_named

if TYPE_CHECKING:
    from ...studies.compare import Comparison


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=variable, help="variables that hold runs")
    add_output(parser, "Comparison")
    parser.add_argument(
        "--phase",
        metavar="prefill|decode|KIND",
        help="compare only the prompts, what was generated, or a kind of token, as thinking",
    )
    parser.add_argument(
        "--domain", dest="domains", action="append", metavar="TEXT",
        help="the group of each run, one word per run in their order",
    )  # fmt: skip
    parser.add_argument(
        "--permutations", type=int, metavar="N",
        help="number of random permutations of token blocks (999)",
    )  # fmt: skip
    parser.add_argument(
        "--slots", type=int, metavar="N",
        help="cache size to compare at (default: the smallest of the runs)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the permutations (0)")


def _run(session: Session, args: dict[str, Any]) -> Comparison:
    from ...studies.compare import compare  # imports large libraries

    output = args.pop("output", None)
    found = compare(runs_named(args.pop("runs"), session.variables), **args)
    session.store(output, found)
    return found


COMMAND = Command(
    "compare",
    "compare runs: where their routing differs and how much each reads",
    _run,
    _arguments,
    call='`outlier_jupyter.compare({"a": a, "b": b}, …)`',
    terminal=True,
    group="research",
)
