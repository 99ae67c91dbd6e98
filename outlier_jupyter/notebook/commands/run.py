"""`%outlier run` and `%%outlier`: run a prompt and show its routing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import cache
from typing import Any

from ...errors import OptionError
from ...options import GenerateOptions
from .command import Command, Session
from .parsing import add_fields, add_json, add_output, add_pace

CELL = "%%outlier"
CELL_CALL = (
    "`run = engine.generate(prompt, …)`; under a live view `outlier_jupyter.watch(engine, "
    "prompt, …)`; `--mask` and other changes of routing also as `with "
    "engine.routing(mask=[…]):`"
)


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "Run")
    parser.add_argument(
        "--fill", action="store_true", default=None,
        help="replace {name} in the prompt with variables; write {{ and }} for braces",
    )  # fmt: skip
    parser.add_argument(
        "--repeat", type=_times, metavar="N",
        help="run N times; the result is the last run: .repeats lists all, .spread() gives "
        "median and range",
    )  # fmt: skip
    for flag, how in (("--vary", "in every combination"), ("--each", "side by side")):
        parser.add_argument(
            flag, nargs="+", action="extend", metavar="NAME=[…]",
            help=f"fill {{name}} of the prompt with each of these values, {how}, as "
            'tone=["formal","plain"] or tone=VARIABLE; the result is a table of variants',
        )  # fmt: skip
    parser.add_argument(
        "--wanted", metavar="TEXT",
        help="with --vary or --each, also how likely this answer is after each variant",
    )  # fmt: skip
    parser.add_argument(
        "--no-widget", action="store_true", default=None, help="show only the static result"
    )
    parser.add_argument(
        "--save-context", metavar="FILE",
        help="only read the prompt, and keep it in FILE: --context FILE goes on from there",
    )  # fmt: skip
    add_pace(parser)
    parser.add_argument("-q", "--quiet", action="store_true", default=None, help="show nothing")
    add_json(parser, "the run's summary")
    add_fields(parser, GenerateOptions)


def _times(text: str) -> int:
    times = int(text)
    if times < 1:
        raise argparse.ArgumentTypeError(f"{times} is too small: give 1 or more")
    return times


def check_variants(args: Mapping[str, Any]) -> None:
    """Raises OptionError: flags that do not go with variants, or one that is nothing without."""
    if {"vary", "each"} & args.keys():
        others = [n for n in ("repeat", "json", "pace", "fill", "save_context") if n in args]
        if others:
            flag = others[0].replace("_", "-")
            raise OptionError(f"--{flag} does not go with --vary and --each: leave it out")
    elif "wanted" in args:
        raise OptionError("--wanted needs variants: give --vary NAME=[…] or --each NAME=[…], too")


def _run(session: Session, args: dict[str, Any]) -> Any:
    return session.prompt(args, args.pop("text"))


COMMAND = Command(
    "run",
    "run the rest of the line as a prompt, after the flags",
    _run,
    _arguments,
    "Run the rest of the line as a prompt and show its routing live.",
    takes_text=True,
    call="`run = engine.generate(prompt, …)`",
    terminal=True,
    group="start",
)


@cache
def cell_parser() -> argparse.ArgumentParser:
    """The parser of the first line of `%%outlier`; the cell is the prompt."""
    parser = COMMAND.parser(CELL)
    parser.description = "Run the cell's text as a prompt and show its routing live."
    return parser
