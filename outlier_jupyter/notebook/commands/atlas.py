"""`%outlier atlas`: draw a map of the experts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .command import Command, Session
from .parsing import add_output
from .run_selection import add_runs, selected_runs

if TYPE_CHECKING:
    import plotly.graph_objects as go


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_runs(parser)
    parser.add_argument(
        "--by", metavar="runs|tokens|segments",
        help="colour a unit by the run, the class of token, or the segment (thinking, answer …), "
        "that activates it beyond chance",
    )  # fmt: skip
    parser.add_argument(
        "--phase",
        metavar="prefill|decode|KIND",
        help="use only the prompts, what was generated, or a kind of token, as thinking",
    )
    add_output(parser, "figure")


def _run(session: Session, args: dict[str, Any]) -> go.Figure:
    from ...studies.atlas import atlas  # imports Numba, which compiles

    options = {name: args[name] for name in ("by", "phase") if name in args}
    return atlas(selected_runs(session, args), **options).figure()


COMMAND = Command(
    "atlas",
    "map the experts: those chosen by the same tokens lie close together",
    _run,
    _arguments,
    call="`outlier_jupyter.atlas(runs, …).figure()`",
    group="research",
)
