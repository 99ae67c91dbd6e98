"""`%outlier repack`: a model's experts, rewritten for one straight read each."""

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
        help="where to write them; left out, beside the model or in the cache folder",
    )  # fmt: skip
    add_output(parser, "Repacked")
    add_fields(parser, LoadOptions, ("revision", "trust_remote_code", "quiet"))


def _run(session: Session, given: dict[str, Any]) -> None:
    output = given.pop("output", None)
    done = repack(given.pop("model"), **given)
    session.store(output, done)
    session.write(f"{done}\n")


COMMAND = Command(
    "repack",
    "rewrite a model's experts so that each is one straight read",
    _run,
    _arguments,
    call="`outlier_jupyter.repack(model, …)`",
    terminal=True,
)
