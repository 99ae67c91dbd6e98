"""The flags of `%%outlier` and of each command, and how a line is read with them."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..errors import OptionError
from ..options import GenerateOptions, LoadOptions
from . import study_arguments
from .asking_arguments import asking_parser
from .commands import ASKING, COMMANDS, JSON, MODEL
from .controls import DEFAULTS, NAMES
from .parsing import Parser, add_fields, add_json, add_output, variable


def cell_parser(prog: str = "%%outlier") -> argparse.ArgumentParser:
    """Flags of `%%outlier`, whose cell is the prompt, and of `%outlier run`."""
    what = "cell's text" if prog == "%%outlier" else "rest of the line"
    parser = Parser(prog=prog, description=f"Run the {what} as a prompt and watch where it routes.")
    add_output(parser, "Run")
    parser.add_argument(
        "--fill", action="store_true", default=None,
        help="put variables in place of {name} in the prompt; {{ and }} stand for braces",
    )  # fmt: skip
    parser.add_argument(
        "--repeat", type=int, metavar="N",
        help="run it N times: the last is the result, its .repeats are all and .spread() their "
        "median and range",
    )  # fmt: skip
    parser.add_argument(
        "--no-widget", action="store_true", default=None, help="no live view, only what stays"
    )
    parser.add_argument("-q", "--quiet", action="store_true", default=None, help="show nothing")
    add_json(parser, "the run's summary")
    add_fields(parser, GenerateOptions)
    return parser


def load_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier load`."""
    parser = Parser(prog="%outlier load", description="Load a model with its experts on disk.")
    parser.add_argument("model", help=MODEL)
    add_output(parser, "Engine")
    add_fields(parser, LoadOptions)
    return parser


def command_parser(command: str) -> argparse.ArgumentParser:
    """Flags of `%outlier COMMAND`, one of `COMMANDS`."""
    if command == "load":
        return load_parser()
    if command == "chat":
        return chat_parser()
    if command == "run":
        return cell_parser("%outlier run")
    if command == "plan":
        return plan_parser()
    if command == "compare":
        return compare_parser()
    if command in ("ablate", "sweep"):
        return study_arguments.PARSERS[command]()
    if command == "bench":
        return bench_parser()
    if command == "repack":
        return repack_parser()
    if command in ASKING:
        return asking_parser(command)
    parser = Parser(prog=f"%outlier {command}", description=f"{COMMANDS[command].capitalize()}.")
    if command == "resize":
        add_fields(parser, LoadOptions, ("cache_gb", "cache_experts", "force"), defaults=False)
    if command in JSON:
        add_json(parser, JSON[command])
    return parser


def plan_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier plan`."""
    parser = Parser(prog="%outlier plan", description=f"Say {COMMANDS['plan']}.")
    parser.add_argument("model", help=f"{MODEL}; it need not be downloaded")
    add_output(parser, "Plan")
    add_json(parser, "the plan")
    names = ["ram_gb", "kernels", "kept_kv_gb", "revision", "trust_remote_code"]
    add_fields(parser, LoadOptions, names)
    return parser


def compare_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier compare`, those of `outlier_jupyter.compare`."""
    parser = Parser(prog="%outlier compare", description=f"{COMMANDS['compare'].capitalize()}.")
    parser.add_argument("runs", nargs="+", type=variable, help="variables that hold runs")
    add_output(parser, "Comparison")
    parser.add_argument("--phase", metavar="prefill|decode", help="compare these steps alone")
    parser.add_argument(
        "--domain", dest="domains", action="append", metavar="TEXT",
        help="one word per run, in their order: which texts belong together",
    )  # fmt: skip
    parser.add_argument(
        "--permutations", type=int, metavar="N",
        help="how often stretches of tokens are dealt by chance (999)",
    )  # fmt: skip
    parser.add_argument(
        "--slots", type=int, metavar="N", help="size of the equal caches (the smallest of the runs)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the dealing (0)")
    return parser


def bench_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier bench`."""
    parser = Parser(
        prog="%outlier bench",
        description="Measure this machine: a slice of Qwen3-30B-A3B's geometry with random "
        "weights, paged and by mlx-lm, beside the limit of the hardware. Takes 3 GB of disk.",
    )
    parser.add_argument("model", nargs="?", help="with --disk, whose files are read; the loaded")
    parser.add_argument("--folder", help="where the slice is made and kept; the cache folder")
    parser.add_argument(
        "--traces", metavar="FOLDER",
        help="recorded traces (.safetensors) to take routing from; else the demo model's",
    )  # fmt: skip
    add_output(parser, "table")
    parser.add_argument(
        "--disk", action="store_true", default=None,
        help="read places of the model's files for two seconds, in every way there is",
    )  # fmt: skip
    parser.add_argument(
        "--memory", action="store_true", default=None,
        help="read memory with all cores for half a second; explanations of later runs know it",
    )  # fmt: skip
    return parser


def repack_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier repack`."""
    parser = Parser(prog="%outlier repack", description=f"{COMMANDS['repack'].capitalize()}.")
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "--folder", metavar="FOLDER",
        help="where to write them; left out, beside the model or in the cache folder",
    )  # fmt: skip
    add_output(parser, "Repacked")
    add_fields(parser, LoadOptions, ("revision", "trust_remote_code", "quiet"))
    return parser


def chat_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier chat`: the settings it begins with."""
    parser = Parser(prog="%outlier chat", description="Chat with the loaded model in a widget.")
    add_output(parser, "Chat")
    # What a chat does anyway needs no flag, and a flag can only say yes.
    add_fields(parser, GenerateOptions, [name for name in NAMES if name not in DEFAULTS])
    return parser


def help_text() -> str:
    """What `%outlier --help` and `%outlier?` show."""
    width = max(map(len, COMMANDS)) + 2
    commands = "\n".join(f"  %outlier {name:<{width}}{text}" for name, text in COMMANDS.items())
    return (
        "Run Mixture-of-Experts models whose experts stay on disk, and watch where they route.\n\n"
        f"{commands}\n  %%outlier [flags]{'':<{width - 8}}run the cell's text as a prompt\n\n"
        "A `;` at the end of the line, or of a cell's first line, shows no result.\n\n"
        f"{load_parser().format_help()}\n{cell_parser().format_help()}"
    )


def split_prompt(parser: argparse.ArgumentParser, line: str) -> tuple[str, str]:
    """The flags at the beginning of `line`, and the rest as it is: a prompt, without its quotes.

    Splitting it all as a shell does would stumble over every apostrophe. `--` ends the flags.
    """
    takes = {flag: a.nargs != 0 for a in parser._actions for flag in a.option_strings}
    flags, rest = "", line.strip()
    while re.match(r"--?[a-zA-Z]|--(\s|$)", rest):
        word = rest.split(maxsplit=1)[0]
        rest = rest[len(word) :].lstrip()
        if word == "--":
            break
        flags += f" {word}"
        if takes.get(word):
            value = re.match(r"\"[^\"]*\"|'[^']*'|\S*", rest)
            assert value is not None  # it matches the empty string
            flags += f" {value[0]}"
            rest = rest[value.end() :].lstrip()
    quoted = re.fullmatch(r"([\"'])(.*)\1", rest)
    return flags, quoted[2] if quoted else rest


TEXTS = ("--system", "--stop")
"""Flags of a prompt whose values are text for the model."""


def expand_flags(line: str, expand: Callable[[str], str]) -> str:
    """A prompt's flags with variables put in by `expand`; in `TEXTS` only with `--fill`."""
    words = re.findall(r"(?:\{[^{}]*\}|[^\s\"'{]|\"(?:\\.|[^\"\\])*\"|'[^']*')+|\S", line)
    if "--fill" in words:
        return expand(line)
    own = tuple(f"{flag}=" for flag in TEXTS)
    return " ".join(
        word if before in TEXTS or word.startswith(own) else expand(word)
        for before, word in zip(["", *words], words, strict=False)
    )


def parse(parser: argparse.ArgumentParser, line: str) -> dict[str, Any]:
    """The arguments that were given in `line`; what was left out is left out.

    Raises:
        OptionError: one line about what cannot be understood.
        HelpAsked: `--help` was given.
    """
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise OptionError(f"{parser.prog}: {error}: close the quotes in {line!r}") from error
    given = vars(parser.parse_args(words))
    return {
        name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None
    }


def near(word: str, known: Collection[str]) -> str:
    """`; did you mean …?` for the known word nearest to an unknown one, if any is near."""
    found = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {found[0]}?" if found else ""


def fill(cell: str, variables: Mapping[str, Any]) -> str:
    """`cell` with `{name}`, `{name.attribute}` and `{name:format}` filled in, as `str.format` does.

    Raises:
        OptionError: a variable that is not there, or braces that do not match.
    """
    try:
        return cell.format_map(variables)
    except KeyError as error:
        raise OptionError(
            f"--fill: there is no variable {error}; write {{{{ and }}}} for plain braces"
        ) from error
    except (ValueError, IndexError, AttributeError) as error:
        raise OptionError(
            f"--fill cannot read the cell: {error}; write {{{{ and }}}} for plain braces"
        ) from error
