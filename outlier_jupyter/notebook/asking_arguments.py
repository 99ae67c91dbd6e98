"""The flags of the commands that ask or keep a finished run: `%outlier explain`, `save`, …"""

from __future__ import annotations

import argparse

from ..residency.policies import POLICIES
from .commands import COMMANDS
from .parsing import Parser, add_output, variable


def asking_parser(command: str) -> argparse.ArgumentParser:
    """Flags of the commands that ask a finished run, one of `ASKING`."""
    parser = Parser(prog=f"%outlier {command}", description=f"Say {COMMANDS[command]}.")
    if command == "explain":
        parser.add_argument(
            "token", type=int, nargs="?",
            help="its number as the live view counts; left out, the slowest",
        )  # fmt: skip
        parser.add_argument(
            "--memory-rate", type=float, metavar="BYTES",
            help="a second that memory gives, where nobody has measured it here",
        )  # fmt: skip
        add_output(parser, "Explanation")
    elif command == "expert":
        parser.add_argument("expert", type=_pair, metavar="LAYER:EXPERT", help="counted from 0")
        _runs(parser)
        add_output(parser, "ExpertUses")
        return parser
    elif command == "atlas":
        _runs(parser)
        parser.add_argument(
            "--by", metavar="runs|tokens",
            help="which run's tokens, or what kind of token, fires a unit beyond chance",
        )  # fmt: skip
        parser.add_argument("--phase", metavar="prefill|decode", help="of these steps alone")
        add_output(parser, "figure")
        return parser
    elif command == "tokens":
        parser.add_argument(
            "tokens", type=_span, metavar="FIRST:LAST", help="numbers as the live view counts"
        )
        add_output(parser, "TokenExperts")
    elif command == "view":
        parser.description = f"Show {COMMANDS[command]}."
        add_output(parser, "LiveView")
    elif command == "what-if":
        _what_if(parser)
    elif command == "measures":
        parser.add_argument("--phase", metavar="prefill|decode|all", help="of these steps (decode)")
        parser.add_argument(
            "--figure", metavar="layers|time|atlas",
            help="a figure for a table: by layer, over the steps, or a map of the experts",
        )  # fmt: skip
        add_output(parser, "table or figure")
    else:
        parser.description = f"{COMMANDS[command].capitalize()}."
        given = {"report": ("?", "the file; outlier-report.html if left out")}
        nargs, text = given.get(command, (None, "the file"))
        parser.add_argument("path", nargs=nargs, help=text)
        if command == "open":
            add_output(parser, "Run")
            return parser
    parser.add_argument(
        "--run", metavar="NAME", type=variable,
        help="the variable that holds the run; left out, the last run",
    )  # fmt: skip
    return parser


def _runs(parser: argparse.ArgumentParser) -> None:
    """Runs by name."""
    parser.add_argument(
        "runs", nargs="*", type=variable, help="variables that hold runs; left out, all that do"
    )


def _what_if(parser: argparse.ArgumentParser) -> None:
    """Flags of `%outlier what-if`."""
    parser.add_argument(
        "--slots", type=int, action="append", metavar="N", help="a size; may be given again"
    )
    parser.add_argument(
        "--policy", dest="policies", action="append", metavar="|".join(POLICIES),
        help="a cache policy; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--slider", action="store_true", default=None, help="a slider of sizes for a table"
    )
    parser.add_argument(
        "--figure", action="store_true", default=None, help="a figure of curves for a table"
    )
    parser.add_argument(
        "--hit-rate", type=float, metavar="SHARE",
        help="the fewest slots with which so much of decode hits, as 0.9",
    )  # fmt: skip
    parser.add_argument(
        "--after", action="append", type=variable, metavar="NAME",
        help="a variable that holds a run made before, from an empty cache; oldest first",
    )  # fmt: skip
    add_output(parser, "table, figure or number")


def _pair(text: str) -> tuple[int, int]:
    """`12:37` as (12, 37), a layer and an expert."""
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no LAYER:EXPERT, such as 12:37")
    return int(parts[0]), int(parts[1])


def _span(text: str) -> int | slice:
    """`5` as 5, `5:9` as the tokens 5 to 9."""
    parts = text.split(":")
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no token or FIRST:LAST, such as 5:9")
    return int(parts[0]) if len(parts) == 1 else slice(int(parts[0]), int(parts[1]))
