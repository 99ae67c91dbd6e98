"""Which runs a command works on: those named, the last one, or all runs in variables."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

from ...errors import OptionError
from ...runs.run import Run
from ...runs.token_experts import named
from ...trace import Trace
from .command import Session
from .parsing import near, variable


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add `--run NAME`."""
    parser.add_argument(
        "--run", metavar="NAME", type=variable,
        help="the variable that holds the run (default: the last run)",
    )  # fmt: skip


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add positional names of runs, and `--run NAME` for one more."""
    parser.add_argument(
        "runs", nargs="*", type=variable, help="variables that hold runs (default: all runs)"
    )
    parser.add_argument(
        "--run", metavar="NAME", type=variable, action="append", default=[],
        help="one of the runs, as other commands name it",
    )  # fmt: skip


def selected_run(session: Session, args: Mapping[str, Any]) -> Run:
    """The run that `--run` names; else the engine's last run, else the newest in a variable.

    Raises:
        OptionError: there is no run.
    """
    if args.get("run") is not None:
        return next(iter(named(runs_named([args["run"]], session.variables)).values()))
    last, runs = session.last_run(), runs_in(session.variables)
    if last is None and not runs:
        raise OptionError("there is no run yet: run a prompt first, or load one with Run.load")
    return next(reversed(named(runs).values())) if last is None else last


def run_and_file(session: Session, args: Mapping[str, Any], ending: str) -> tuple[Run, str]:
    """The run to write, and the file: `report run` writes the run in the variable `run`.

    Other commands take a run's name in that place. A path that names a run, without `--run`, means
    this run and a file of its name; a path without an ending gets `ending`.
    """
    path = str(args["path"])
    variables = session.variables
    if args.get("run") is None and path in list(variables) and isinstance(variables[path], Run):
        args = {**args, "run": path}
    run = selected_run(session, args)
    return run, path if PurePath(path).suffix else f"{path}{ending}"


def selected_runs(session: Session, args: Mapping[str, Any]) -> dict[str, Run | Trace]:
    """The runs that are named, else all in variables, else the last one."""
    names = [*args.get("runs", ()), *args.get("run", ())]
    runs = runs_named(names, session.variables) or runs_in(session.variables)
    last = session.last_run()
    return {"last run": last} if not runs and last is not None else runs


def runs_in(variables: Mapping[str, Any]) -> dict[str, Run | Trace]:
    """The runs and traces in variables, each once; names that begin with `_` are skipped."""
    found: dict[str, Run | Trace] = {}
    seen: set[int] = set()
    for name, value in variables.items():
        if name.startswith("_") or not isinstance(value, Run | Trace):
            continue
        trace = value.trace if isinstance(value, Run) else value
        if id(trace) not in seen:
            seen.add(id(trace))
            found[name] = value  # a run's own trace under another name counts as that run
    return found


def runs_named(names: Collection[str], variables: Mapping[str, Any]) -> dict[str, Run | Trace]:
    """The runs in these variables.

    Raises:
        OptionError: a variable does not hold a run; suggests a similar name.
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
