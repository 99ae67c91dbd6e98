"""Which runs a command is about: those named, the last one, or all that variables hold."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from typing import Any

from ...errors import OptionError
from ...runs.run import Run
from ...runs.token_experts import named
from ...trace import Trace
from .command import Session
from .parsing import near, variable


def add_run(parser: argparse.ArgumentParser) -> None:
    """`--run NAME`."""
    parser.add_argument(
        "--run", metavar="NAME", type=variable,
        help="the variable that holds the run; left out, the last run",
    )  # fmt: skip


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Runs by name."""
    parser.add_argument(
        "runs", nargs="*", type=variable, help="variables that hold runs; left out, all that do"
    )


def the_run(session: Session, given: Mapping[str, Any]) -> Run:
    """The run that `--run` names; without it the engine's last one, or the newest there is.

    Raises:
        OptionError: there is none.
    """
    if given.get("run") is not None:
        return next(iter(named(by_name([given["run"]], session.variables)).values()))
    last, there = session.last_run(), all_runs(session.variables)
    if last is None and not there:
        raise OptionError("there is no run yet: run a prompt first, or load one with Run.load")
    return next(reversed(named(there).values())) if last is None else last


def the_runs(session: Session, given: Mapping[str, Any]) -> dict[str, Run | Trace]:
    """The runs that are named, else all that variables hold, else the last."""
    runs = by_name(given.get("runs", ()), session.variables) or all_runs(session.variables)
    last = session.last_run()
    return {"last run": last} if not runs and last is not None else runs


def all_runs(variables: Mapping[str, Any]) -> dict[str, Run | Trace]:
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
