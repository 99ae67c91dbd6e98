"""`%outlier repack`: rewrite a model's experts so that each is one contiguous read."""

from __future__ import annotations

import argparse
from typing import Any

from ...engine.repack import repack
from ...options import LoadOptions
from .command import MODEL, Command, Session
from .parsing import add_fields, add_output


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "--folder", metavar="FOLDER",
        help="where to write (default: beside the model, or in the cache folder)",
    )  # fmt: skip
    parser.add_argument(
        "--shard", metavar="I/N",
        help="write only what rank I of N needs, as 1/4, to --folder: its experts, and all that is "
        "not experts",
    )  # fmt: skip
    add_output(parser, "Repacked")
    add_fields(parser, LoadOptions, ("placement", "revision", "trust_remote_code", "quiet"))


def _run(session: Session, args: dict[str, Any]) -> None:
    output = args.pop("output", None)
    done = repack(args.pop("model"), **args)
    session.store(output, done)
    session.write(f"{done}\n")


COMMAND = Command(
    "repack",
    "rewrite a model's experts so that each is one contiguous read",
    _run,
    _arguments,
    call="`outlier_jupyter.repack(model, …)`",
    terminal=True,
    group="start",
)
