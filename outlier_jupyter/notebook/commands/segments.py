"""`%outlier segments`: compare routing while a run thinks with routing while it answers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ...trace.segment_answers import SegmentsAnswer, segments_answer
from .command import Command, Session
from .parsing import add_frame, add_output
from .run_selection import add_run, selected_run

if TYPE_CHECKING:
    import pandas


def _arguments(parser: argparse.ArgumentParser) -> None:
    for name, default in (("first", "thinking"), ("second", "answer")):
        parser.add_argument(f"--{name}", metavar="KIND", help=f"a kind of token ({default})")
    parser.add_argument(
        "--permutations", type=int, metavar="N",
        help="number of random permutations of token blocks (999)",
    )  # fmt: skip
    add_frame(parser)
    add_output(parser, "answer")
    add_run(parser)


def _run(session: Session, args: dict[str, Any]) -> SegmentsAnswer | pandas.DataFrame:
    """Return an answer, or its table with a row per kind."""
    options = {name: args[name] for name in ("first", "second", "permutations") if name in args}
    found = segments_answer(selected_run(session, args).trace, **options)
    return found.frame if args.get("frame") else found


COMMAND = Command(
    "segments",
    "compare routing, hits and speed while thinking with those while answering",
    _run,
    _arguments,
    call="`run.compare_segments(first, second)`; `run.segments` has a row per segment",
    terminal=True,
    group="research",
)
