"""The commands that ask finished runs, or keep them: explain, expert, measures, save and others.
Which run is meant, and what is asked of it; the answers are made elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OptionError
from ..run import Run, produced_by
from ..trace import Trace
from ..trace.explain import Explanation, slowest
from ..uses import ExpertUses, TokenExperts, experts_of, named, tokens_of
from .arguments import near

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from .sizing import Sizing

REPORT = "outlier-report.html"
"""Where a report is written, in the working folder, when no path is given."""


def held_runs(variables: Mapping[str, Any]) -> dict[str, Run | Trace]:
    """The runs and traces in variables, each once; IPython's own names for results left out."""
    found: dict[str, Run | Trace] = {}
    seen: set[int] = set()
    for name, value in variables.items():
        if name.startswith("_") or not isinstance(value, Run | Trace):
            continue
        trace = value.trace if isinstance(value, Run) else value
        if id(trace) not in seen:
            seen.add(id(trace))
            found[name] = value
    # A run's own trace under another name is that run.
    return found


def one_run(name: str | None, variables: Mapping[str, Any], last: Run | None) -> Run:
    """The run in variable `name`; without a name the engine's last one, or the newest held.

    Raises:
        OptionError: there is none.
    """
    if name is not None:
        return next(iter(named(by_name([name], variables)).values()))
    held = held_runs(variables)
    if last is None and not held:
        raise OptionError("there is no run yet: run a prompt first, or load one with Run.load")
    if last is None:
        last = next(reversed(named(held).values()))
    return last


def by_name(names: Collection[str], variables: Mapping[str, Any]) -> dict[str, Run | Trace]:
    """The runs in these variables.

    Raises:
        OptionError: one of them holds none; says which name is near.
    """
    runs = {}
    for name in names:
        if not isinstance(variables.get(name), Run | Trace):
            known = [key for key, value in variables.items() if isinstance(value, Run | Trace)]
            raise OptionError(
                f"there is no run in a variable {name!r}{near(name, known)}; store one with "
                "`%%outlier -o NAME`"
            )
        runs[name] = variables[name]
    return runs


def explain(given: dict[str, Any], run: Run) -> Explanation:
    """`%outlier explain [TOKEN]`: without a number, the token that took longest."""
    token = given.get("token")
    if token is None:
        slow = [step for step in slowest(run.trace, run.trace.steps).tolist()
                if step in produced_by(run.trace)]  # fmt: skip
        if not slow:
            raise OptionError("this run decoded no token: there is nothing to explain")
        token = int(np.flatnonzero(produced_by(run.trace) == slow[0])[0]) + 1
    return run.explain(token, given.get("memory_rate"))


def expert(given: dict[str, Any], variables: Mapping[str, Any], last: Run | None) -> ExpertUses:
    """`%outlier expert LAYER:EXPERT [RUN …]`: over all runs held, or those named."""
    layer, number = given["expert"]
    return tokens_of(some_runs(given, variables, last), layer, number)


def tokens(given: dict[str, Any], run: Run) -> TokenExperts:
    """`%outlier tokens FIRST:LAST`."""
    return experts_of(run, given["tokens"])


def what_if(
    given: dict[str, Any], run: Run, variables: Mapping[str, Any]
) -> Sizing | pandas.DataFrame | go.Figure | int:
    """`%outlier what-if`: a table, or the slider, the figure, or how many slots a rate takes.

    Raises:
        OptionError: no such rate, policy, size or run.
    """
    if given.get("slider"):
        return run.trace.sizing()
    asked = {name: given[name] for name in ("slots", "policies") if name in given}
    if given.get("figure"):
        return run.figures.what_if(**asked)
    before = named(by_name(given["after"], variables)).values() if "after" in given else ()
    after = [each.trace for each in before]
    if "hit_rate" in given:
        policy = given.get("policies", ["default"])[0]
        return run.trace.slots_for(given["hit_rate"], policy, after=after)
    found = run.trace.what_if(**asked, after=after)
    if found.attrs["note"]:
        sys.stdout.write(f"Not hit for hit: {found.attrs['note']}.\n")
    return found


def atlas(given: dict[str, Any], variables: Mapping[str, Any], last: Run | None) -> go.Figure:
    """`%outlier atlas [RUN …]`: over all runs held, or those named."""
    from ..studies.mapping import atlas as over  # it compiles: imported when asked for

    asked = {name: given[name] for name in ("by", "phase") if name in given}
    return over(some_runs(given, variables, last), **asked).figure()


def some_runs(
    given: dict[str, Any], variables: Mapping[str, Any], last: Run | None
) -> dict[str, Run | Trace]:
    """The runs that are named, else all that are held, else the last."""
    runs = by_name(given.get("runs", ()), variables) or held_runs(variables)
    if not runs and last is not None:
        runs = {"last run": last}
    return runs


def measures(given: dict[str, Any], run: Run) -> pandas.DataFrame | go.Figure:
    """`%outlier measures`: a row for each layer, or one of the figures of routing.

    Raises:
        OptionError: no such phase, no such figure.
    """
    phase = given.get("phase", "decode")
    figure = given.get("figure")
    if figure is None:
        import pandas

        return pandas.DataFrame(run.measures(None if phase == "all" else phase).rows())
    if figure == "layers":
        return run.figures.measures(phase)
    if figure == "time":
        return run.figures.over_time()
    if figure == "atlas":
        from ..studies.mapping import atlas as over  # it compiles: imported when asked for

        return over({"this run": run}).figure()
    raise OptionError(f"--figure {figure} is unknown: choose layers, time or atlas")


def save(given: dict[str, Any], run: Run) -> Path:
    """`%outlier save PATH`."""
    return run.save(given["path"])


def opened(given: dict[str, Any]) -> Run:
    """`%outlier open PATH`."""
    return Run.load(given["path"])


def report(given: dict[str, Any], run: Run) -> Path:
    """`%outlier report [PATH]`."""
    return run.report(given.get("path", REPORT))
