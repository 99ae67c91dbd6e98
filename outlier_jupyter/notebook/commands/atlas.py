"""`%outlier atlas`: a map of the experts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .command import Command, Session
from .parsing import add_output
from .which_run import add_runs, the_runs

if TYPE_CHECKING:
    import plotly.graph_objects as go


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_runs(parser)
    parser.add_argument(
        "--by", metavar="runs|tokens",
        help="which run's tokens, or what kind of token, fires a unit beyond chance",
    )  # fmt: skip
    parser.add_argument("--phase", metavar="prefill|decode", help="of these steps alone")
    add_output(parser, "figure")


def _run(session: Session, given: dict[str, Any]) -> go.Figure:
    from ...studies.atlas import atlas  # it compiles: imported when asked for

    asked = {name: given[name] for name in ("by", "phase") if name in given}
    return atlas(the_runs(session, given), **asked).figure()


COMMAND = Command(
    "atlas",
    "a map of the experts: those that the same tokens choose near each other; of all runs",
    _run,
    _arguments,
    "Draw a map of the experts: those that the same tokens choose near each other; of all runs.",
    call="`outlier_jupyter.atlas(runs, …).figure()`",
)
