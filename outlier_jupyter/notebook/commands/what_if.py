"""`%outlier what-if`: other caches over a run that was made."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ...residency.policies import POLICIES
from ...runs.token_experts import named
from .command import Command, Session
from .parsing import add_output, variable
from .which_run import add_run, by_name, the_run

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slots", type=int, action="append", metavar="N", help="a size; may be given again"
    )
    parser.add_argument(
        "--policy", dest="policies", action="append", metavar="|".join(POLICIES),
        help="a cache policy; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--figure", "--slider", action="store_true", default=None,
        help="a figure of curves for a table; --slider is its old name",
    )  # fmt: skip
    parser.add_argument(
        "--hit-rate", type=float, metavar="SHARE",
        help="with how few slots so much of decode hits, as 0.9",
    )  # fmt: skip
    parser.add_argument(
        "--after", action="append", type=variable, metavar="NAME",
        help="a variable that holds a run made before, from an empty cache; oldest first",
    )  # fmt: skip
    add_output(parser, "table, figure or number")
    add_run(parser)


def _run(session: Session, given: dict[str, Any]) -> pandas.DataFrame | go.Figure | int:
    """A table, or the figure, or how many slots a rate takes."""
    run = the_run(session, given)
    asked = {name: given[name] for name in ("slots", "policies") if name in given}
    if given.get("figure"):
        figure: go.Figure = run.figures.what_if(**asked)
        return figure
    before = named(by_name(given["after"], session.variables)).values() if "after" in given else ()
    after = [each.trace for each in before]
    if "hit_rate" in given:
        policy = given.get("policies", ["default"])[0]
        return run.trace.slots_for(given["hit_rate"], policy, after=after)
    found = run.trace.what_if(**asked, after=after)
    if found.attrs["note"]:
        session.write(f"Not hit for hit: {found.attrs['note']}.\n")
    return found


COMMAND = Command(
    "what-if",
    "what other cache sizes and policies would have hit, read and given",
    _run,
    _arguments,
    "Say what other cache sizes and policies would have hit, read and given.",
    call="`run.trace.what_if(slots, policies)`, `run.trace.slots_for(0.9)`; `--figure` is "
    "`run.figures.what_if(slots, policies)`",
    terminal=True,
)
