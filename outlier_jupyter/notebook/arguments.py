"""The flags of `%outlier`, made from the option dataclasses; parsing is argparse's.

A mistake becomes an `OptionError` with one line and, where a known name is near, a suggestion.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, NoReturn

from ..errors import OptionError
from ..options import GenerateOptions, LoadOptions
from .controls import DEFAULTS, NAMES

COMMANDS = {
    "load": "load a model: demo, a folder, or a Hugging Face id",
    "run": "run the rest of the line as a prompt, flags first",
    "plan": "what a model weighs and which cache size to take, before it is loaded",
    "repack": "rewrite a model's experts so that each is one straight read",
    "bench": "measure this machine, in minutes; --disk, --memory: how fast they can be read",
    "chat": "chat with the loaded model in a widget",
    "compare": "put runs beside each other: where their routing parts, what each would have read",
    "explain": "why a token of a run took so long: its parts, its layers, its reads",
    "expert": "the tokens that chose an expert, LAYER:EXPERT, over all runs held",
    "tokens": "the experts that a token or a span, FIRST:LAST, chose",
    "what-if": "what other cache sizes and policies would have hit, read and given",
    "report": "write a run to one page of HTML that needs nothing else",
    "ablate": "mask experts and see how much less likely texts become, against random masks",
    "sweep": "try values of top_k, the cache's size, policy or reader: speed, loss, coherence",
    "resize": "give the expert cache another size; what was used last stays in it",
    "unload": "close the engine and free its memory",
    "status": "what is loaded, and how much of it sits in RAM",
    "memory": "where the memory of this process is",
}
ASKING = ("explain", "expert", "tokens", "what-if", "report")
"""The commands that ask a finished run."""
MODEL = COMMANDS["load"].partition(": ")[2]
JSON = {"resize": "the status", "status": "the status", "memory": "the numbers, in bytes"}
"""The commands that have `--json`, and what it prints."""


class HelpAsked(Exception):
    """`--help` was among the arguments; the text to show is the message."""


class _Parser(argparse.ArgumentParser):
    """argparse that raises in place of leaving the process."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(add_help=False, allow_abbrev=False, **settings)
        self.formatter_class = lambda prog: argparse.HelpFormatter(
            prog, max_help_position=32, width=96
        )
        self.add_argument("-h", "--help", action=_Help, help="show this text")

    def error(self, message: str) -> NoReturn:
        raise OptionError(
            f"{self.prog}: {message}{self._suggestion(message)}; see {self.prog} --help"
        )

    def _suggestion(self, message: str) -> str:
        """The known flags nearest to the unknown ones the message names."""
        known = list(self._option_string_actions)
        seen = [word for word in message.replace("=", " ").split() if word.startswith("-")]
        near = [match for word in seen for match in difflib.get_close_matches(word, known, 1)]
        return f"; did you mean {', '.join(near)}?" if near and "unrecognized" in message else ""


class _Help(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> NoReturn:
        raise HelpAsked(parser.format_help())


def cell_parser(prog: str = "%%outlier") -> argparse.ArgumentParser:
    """Flags of `%%outlier`, whose cell is the prompt, and of `%outlier run`."""
    what = "cell's text" if prog == "%%outlier" else "rest of the line"
    parser = _Parser(
        prog=prog, description=f"Run the {what} as a prompt and watch where it routes."
    )
    _add_output(parser, "Run")
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
    _add_json(parser, "the run's summary")
    _add_fields(parser, GenerateOptions)
    return parser


def load_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier load`."""
    parser = _Parser(prog="%outlier load", description="Load a model with its experts on disk.")
    parser.add_argument("model", help=MODEL)
    _add_output(parser, "Engine")
    _add_fields(parser, LoadOptions)
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
        from . import study_arguments  # which is made of what stands here

        return study_arguments.PARSERS[command]()
    if command == "bench":
        return bench_parser()
    if command == "repack":
        return repack_parser()
    if command in ASKING:
        return asking_parser(command)
    parser = _Parser(prog=f"%outlier {command}", description=f"{COMMANDS[command].capitalize()}.")
    if command == "resize":
        _add_fields(parser, LoadOptions, ("cache_gb", "cache_experts"), defaults=False)
    if command in JSON:
        _add_json(parser, JSON[command])
    return parser


def plan_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier plan`."""
    parser = _Parser(prog="%outlier plan", description=f"Say {COMMANDS['plan']}.")
    parser.add_argument("model", help=f"{MODEL}; it need not be downloaded")
    _add_output(parser, "Plan")
    _add_json(parser, "the plan")
    _add_fields(parser, LoadOptions, ["revision"])
    return parser


def compare_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier compare`, those of `outlier_jupyter.compare`."""
    parser = _Parser(prog="%outlier compare", description=f"{COMMANDS['compare'].capitalize()}.")
    parser.add_argument("runs", nargs="+", type=_variable, help="variables that hold runs")
    _add_output(parser, "Comparison")
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


def asking_parser(command: str) -> argparse.ArgumentParser:
    """Flags of the commands that ask a finished run, one of `ASKING`."""
    parser = _Parser(prog=f"%outlier {command}", description=f"Say {COMMANDS[command]}.")
    if command == "explain":
        parser.add_argument(
            "token", type=int, nargs="?",
            help="its number as the live view counts; left out, the slowest",
        )  # fmt: skip
        _add_output(parser, "Explanation")
    elif command == "expert":
        parser.add_argument("expert", type=_pair, metavar="LAYER:EXPERT", help="counted from 0")
        parser.add_argument(
            "runs",
            nargs="*",
            type=_variable,
            help="variables that hold runs; left out, all that do",
        )
        _add_output(parser, "ExpertUses")
        return parser
    elif command == "tokens":
        parser.add_argument(
            "tokens", type=_span, metavar="FIRST:LAST", help="numbers as the live view counts"
        )
        _add_output(parser, "TokenExperts")
    elif command == "what-if":
        parser.add_argument(
            "--slots", type=int, action="append", metavar="N", help="a size; may be given again"
        )
        parser.add_argument(
            "--policy", dest="policies", action="append", metavar="lru|habit|belady",
            help="who leaves; may be given again",
        )  # fmt: skip
        parser.add_argument(
            "--slider", action="store_true", default=None, help="a slider of sizes for a table"
        )
        _add_output(parser, "table")
    else:
        parser.description = f"{COMMANDS[command].capitalize()}."
        parser.add_argument("path", nargs="?", help="the file; outlier-report.html if left out")
    parser.add_argument(
        "--run", metavar="NAME", type=_variable,
        help="the variable that holds the run; left out, the last run",
    )  # fmt: skip
    return parser


def bench_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier bench`."""
    parser = _Parser(
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
    _add_output(parser, "table")
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
    parser = _Parser(prog="%outlier repack", description=f"{COMMANDS['repack'].capitalize()}.")
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "--folder", metavar="FOLDER",
        help="where to write them; left out, beside the model or in the cache folder",
    )  # fmt: skip
    _add_output(parser, "Repacked")
    _add_fields(parser, LoadOptions, ("revision", "quiet"))
    return parser


def chat_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier chat`: the settings it begins with."""
    parser = _Parser(prog="%outlier chat", description="Chat with the loaded model in a widget.")
    _add_output(parser, "Chat")
    # What a chat does anyway needs no flag, and a flag can only say yes.
    _add_fields(parser, GenerateOptions, [name for name in NAMES if name not in DEFAULTS])
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
    while rest.startswith("-"):
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


def parse(parser: argparse.ArgumentParser, line: str) -> dict[str, Any]:
    """The arguments that were given in `line`; what was left out is left out.

    Raises:
        OptionError: one line about what cannot be understood.
        HelpAsked: `--help` was given.
    """
    try:
        words = shlex.split(line)
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


def _add_json(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", action="store_true", default=None, help=f"print {what} as JSON")


def _add_output(parser: argparse.ArgumentParser, what: str) -> None:
    text = f"store the {what} in this variable"
    parser.add_argument("-o", "--output", metavar="NAME", type=_variable, help=text)


def _variable(name: str) -> str:
    if not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{name!r} is not a variable's name, such as `run`")
    return name


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


def _add_fields(
    parser: argparse.ArgumentParser,
    kind: type[LoadOptions | GenerateOptions],
    names: Collection[str] | None = None,
    defaults: bool = True,
) -> None:
    """One flag per field; its default stays the dataclass's, so absent flags are absent."""
    hints = typing.get_type_hints(kind)
    for spec in fields(kind):
        if names is not None and spec.name not in names:
            continue
        flag = "--" + spec.name.replace("_", "-")
        text = spec.metadata["help"] + (
            "" if not defaults or spec.default in (None, (), False) else f" ({spec.default})"
        )
        text = text.replace("%", "%%")
        wanted = hints[spec.name]
        if isinstance(wanted, types.UnionType):
            wanted = next(option for option in typing.get_args(wanted) if option is not type(None))
        if wanted is bool:
            parser.add_argument(flag, action="store_true", default=None, help=text)
        elif typing.get_origin(wanted) is tuple:
            parser.add_argument(flag, action="append", metavar="TEXT", help=text)
        else:
            metavar = (
                "|".join(map(str, spec.metadata.get("choices", ()))) or wanted.__name__.upper()
            )
            parser.add_argument(flag, type=wanted, metavar=metavar, help=text)
