"""`%outlier what-if`: replay a finished run with other cache sizes and policies."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ...residency.policies import POLICIES
from ...runs.token_experts import named
from ...trace.answers import WhatIfAnswer, what_if_answer
from .command import Command, Session
from .parsing import add_frame, add_output, variable
from .run_selection import add_run, runs_named, selected_run

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go


BOUND = next(spec for spec in POLICIES.values() if spec.make is None)
"""The policy that only a replay can have."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slots", type=int, action="append", metavar="N", help="a cache size; repeatable"
    )
    parser.add_argument(
        "--policy", dest="policies", action="append", metavar="|".join(POLICIES),
        help=f"a cache policy; repeatable; {BOUND.name} {BOUND.help}",
    )  # fmt: skip
    parser.add_argument(
        "--figure", "--slider", action="store_true", default=None,
        help="draw curves; --slider is its old name",
    )  # fmt: skip
    parser.add_argument(
        "--hit-rate", type=float, metavar="SHARE",
        help="return the fewest slots that reach this hit rate in decode, such as 0.9",
    )  # fmt: skip
    parser.add_argument(
        "--after", action="append", type=variable, metavar="NAME",
        help="a variable that holds an earlier run, to replay first; repeatable, oldest first",
    )  # fmt: skip
    add_frame(parser)
    add_output(parser, "answer, figure or number")
    add_run(parser)


def _run(
    session: Session, args: dict[str, Any]
) -> WhatIfAnswer | pandas.DataFrame | go.Figure | int:
    """Return an answer, its table, a figure, or the number of slots for a hit rate."""
    run = selected_run(session, args)
    options = {name: args[name] for name in ("slots", "policies") if name in args}
    if args.get("figure"):
        figure: go.Figure = run.figures.what_if(**options)
        return figure
    before = named(runs_named(args["after"], session.variables)).values() if "after" in args else ()
    after = [each.trace for each in before]
    if "hit_rate" in args:
        policy = args.get("policies", ["default"])[0]
        return run.trace.slots_for(args["hit_rate"], policy, after=after)
    found = what_if_answer(run.trace, **options, after=after)
    return found.frame if args.get("frame") else found


COMMAND = Command(
    "what-if",
    "what a run would hit and read with another cache size or policy",
    _run,
    _arguments,
    call="`run.trace.what_if(slots, policies)`, `run.trace.slots_for(0.9)`; `--figure` is "
    "`run.figures.what_if(slots, policies)`",
    terminal=True,
    group="explain",
)
