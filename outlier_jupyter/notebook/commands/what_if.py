"""`%outlier what-if`: replay a finished run with other cache sizes and policies."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import OptionError
from ...residency.policies import POLICIES
from ...runs.token_experts import named
from ...trace.answers import FrameAnswer, what_if_answer
from ...trace.hosts_answer import hosts_answer
from ...trace.machine_costs import MEASURED
from ...trace.what_if_hosts import PLACEMENTS, Network
from .command import Command, Session
from .parsing import add_frame, add_output, variable
from .run_selection import add_run, runs_named, selected_run

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go


BOUND = next(spec for spec in POLICIES.values() if spec.make is None)
"""The policy that only a replay can have."""
OF_HOSTS = ("placement", "latency_ms", "network_gb", "disk_gb", "measured")
"""Flags that go with `--hosts` alone."""


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
    parser.add_argument(
        "--hosts", type=int, action="append", metavar="N",
        help="instead, with the experts spread over so many machines; repeatable. --slots is then "
        "the cache of each",
    )  # fmt: skip
    parser.add_argument(
        "--placement", metavar="|".join(PLACEMENTS),
        help="with --hosts, which machine has which expert; learned is balanced by this run",
    )  # fmt: skip
    parser.add_argument(
        "--latency-ms", type=float, metavar="MS",
        help="with --hosts, from one machine to another (default: "
        f"{Network().latency_ms:g})",
    )  # fmt: skip
    parser.add_argument(
        "--network-gb", type=float, metavar="GB",
        help=f"with --hosts, 10^9 bytes a second of each link (default: {Network().gb_per_s:g})",
    )  # fmt: skip
    parser.add_argument(
        "--disk-gb", type=float, metavar="GB",
        help="with --hosts, 10^9 bytes a second of one machine's disk (default: fitted to the run)",
    )  # fmt: skip
    parser.add_argument(
        "--measured", action="store_true", default=None,
        help="with --hosts, compute and read as fast as this machine, by its speeds as `plan` "
        "measured them, and not by the run's own times",
    )  # fmt: skip
    add_frame(parser)
    add_output(parser, "answer, figure or number")
    add_run(parser)


def _run(
    session: Session, args: dict[str, Any]
) -> FrameAnswer | pandas.DataFrame | go.Figure | int:
    """Return an answer, its table, a figure, or the number of slots for a hit rate."""
    run = selected_run(session, args)
    if "hosts" in args:
        answer = hosts_answer(run.trace, args["hosts"], **_of_hosts(args))
        return answer.frame if args.get("frame") else answer
    if alone := [name for name in OF_HOSTS if name in args]:
        raise OptionError(f"--{alone[0].replace('_', '-')} belongs to --hosts: give --hosts, too")
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


def _of_hosts(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `hosts_answer`.

    Raises:
        OptionError: a flag that does not go with `--hosts`.
    """
    for name in ("figure", "hit_rate", "after"):
        if name in args:
            raise OptionError(f"--{name.replace('_', '-')} cannot be combined with --hosts")
    slots, policies = args.get("slots", [None]), args.get("policies", ["default"])
    if len(slots) > 1 or len(policies) > 1:
        raise OptionError("--hosts takes one --slots and one --policy: leave the others out")
    figures = {"latency_ms": "latency_ms", "network_gb": "gb_per_s"}
    network = replace(Network(), **{figures[n]: args[n] for n in figures if n in args})
    options = {"slots": slots[0], "policy": policies[0], "network": network}
    if "disk_gb" in args:
        options["disk_rate"] = args["disk_gb"] * 1e9
    if args.get("measured"):
        options["machine"] = MEASURED
    return options | ({"placement": args["placement"]} if "placement" in args else {})


COMMAND = Command(
    "what-if",
    "what a run would hit with another cache or policy, or on several machines",
    _run,
    _arguments,
    call="`run.trace.what_if(slots, policies)`, `run.trace.slots_for(0.9)`; `--figure` is "
    "`run.figures.what_if(slots, policies)`, `--hosts` is `run.trace.what_if_hosts(hosts)`",
    terminal=True,
    group="explain",
)
