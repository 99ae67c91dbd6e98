"""`%outlier measures`: measure the routing of a run by layer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ...errors import OptionError
from ...trace.answers import MeasuresAnswer, measures_answer
from .command import Command, Session
from .parsing import add_frame, add_output
from .run_selection import add_run, selected_run

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--phase",
        metavar="prefill|decode|all|KIND",
        help="what to measure (decode); KIND is a kind of token, as thinking or answer",
    )
    parser.add_argument(
        "--figure", metavar="layers|time|atlas",
        help="draw a figure instead: by layer, over time, or a map of the experts",
    )  # fmt: skip
    add_frame(parser)
    add_output(parser, "answer or figure")
    add_run(parser)


def _run(session: Session, args: dict[str, Any]) -> MeasuresAnswer | pandas.DataFrame | go.Figure:
    """Return an answer, its table with a row per layer, or a figure."""
    run = selected_run(session, args)
    phase, figure = args.get("phase", "decode"), args.get("figure")
    if figure is None:
        found = measures_answer(run.trace, None if phase == "all" else phase)
        return found.frame if args.get("frame") else found
    if figure == "layers":
        return run.figures.measures(phase)
    if figure == "time":
        return run.figures.over_time()
    if figure == "atlas":
        from ...studies.atlas import atlas  # imports Numba, which compiles

        return atlas({"this run": run}).figure()
    raise OptionError(f"--figure {figure} is unknown: choose layers, time or atlas")


COMMAND = Command(
    "measures",
    "how evenly experts are chosen, and how often they come again, by layer",
    _run,
    _arguments,
    call="`run.measures(phase)`; `--figure` is `run.figures.measures(phase)`, `.over_time()`, "
    "`.atlas(labels)`",
    terminal=True,
    group="research",
)
