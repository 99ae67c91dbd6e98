"""`%outlier compare`: runs beside each other, by the arguments of `outlier_jupyter.compare`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .command import Command, Session
from .parsing import add_output, variable
from .which_run import by_name

if TYPE_CHECKING:
    from ...studies.compare import Comparison


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=variable, help="variables that hold runs")
    add_output(parser, "Comparison")
    parser.add_argument("--phase", metavar="prefill|decode", help="compare these steps alone")
    parser.add_argument(
        "--domain", dest="domains", action="append", metavar="TEXT",
        help="one word per run, in their order: which texts belong together",
    )  # fmt: skip
    parser.add_argument(
        "--permutations", type=int, metavar="N",
        help="how often stretches of tokens are dealt by chance (999)",
    )  # fmt: skip
    parser.add_argument(
        "--slots", type=int, metavar="N", help="size of the equal caches (the smallest of the runs)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the dealing (0)")


def _run(session: Session, given: dict[str, Any]) -> Comparison:
    from ...studies.compare import compare  # its libraries are large

    output = given.pop("output", None)
    found = compare(by_name(given.pop("runs"), session.variables), **given)
    session.store(output, found)
    return found


COMMAND = Command(
    "compare",
    "put runs beside each other: where their routing parts, what each would have read",
    _run,
    _arguments,
    call='`outlier_jupyter.compare({"a": a, "b": b}, …)`',
    terminal=True,
)
