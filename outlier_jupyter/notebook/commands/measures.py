"""`%outlier measures`: how a run was routed, by layer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ...errors import OptionError
from .command import Command, Session
from .parsing import add_output
from .which_run import add_run, the_run

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--phase", metavar="prefill|decode|all", help="of these steps (decode)")
    parser.add_argument(
        "--figure", metavar="layers|time|atlas",
        help="a figure for a table: by layer, over the steps, or a map of the experts",
    )  # fmt: skip
    add_output(parser, "table or figure")
    add_run(parser)


def _run(session: Session, given: dict[str, Any]) -> pandas.DataFrame | go.Figure:
    """A row for each layer, or one of the figures of routing."""
    run = the_run(session, given)
    phase, figure = given.get("phase", "decode"), given.get("figure")
    if figure is None:
        import pandas

        return pandas.DataFrame(run.measures(None if phase == "all" else phase).rows())
    if figure == "layers":
        return run.figures.measures(phase)
    if figure == "time":
        return run.figures.over_time()
    if figure == "atlas":
        from ...studies.atlas import atlas  # it compiles: imported when asked for

        return atlas({"this run": run}).figure()
    raise OptionError(f"--figure {figure} is unknown: choose layers, time or atlas")


COMMAND = Command(
    "measures",
    "how a run was routed, by layer: balance, locality, confidence; or as figures",
    _run,
    _arguments,
    "Say how a run was routed, by layer: balance, locality, confidence; or as figures.",
    call="`run.measures(phase)`; `--figure` is `run.figures.measures(phase)`, `.over_time()`, "
    "`.atlas(labels)`",
    terminal=True,
)
