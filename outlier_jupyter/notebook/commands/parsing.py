"""Parts of all commands' parsers: argparse that raises, shared flags, and options as flags.

A parse error becomes a one-line `OptionError`, with a suggestion if a known name is similar.
"""

from __future__ import annotations

import argparse
import difflib
import re
import types
import typing
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any, NoReturn

from ...errors import OptionError, cut
from ...options import GenerateOptions, LoadOptions, choices_of, help_of
from ...values import rate


class HelpRequested(Exception):
    """The arguments contain `--help`; the message is the help text."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises `OptionError` instead of exiting the process."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(add_help=False, allow_abbrev=False, **settings)
        self.formatter_class = lambda prog: argparse.HelpFormatter(
            prog, max_help_position=32, width=96
        )
        self.add_argument("-h", "--help", action=_Help, help="show this help")

    def error(self, message: str) -> NoReturn:
        short = cut(" ".join(cut(word, 60) for word in message.split()), 230)
        raise OptionError(f"{self.prog}: {short}{self._suggestion(short)}; see {self.prog} --help")

    def _suggestion(self, message: str) -> str:
        """Suggest known flags similar to the unknown ones in the message."""
        known = list(self._option_string_actions)
        flags = [word for word in message.replace("=", " ").split() if word.startswith("-")]
        near = [match for word in flags for match in difflib.get_close_matches(word, known, 1)]
        return f"; did you mean {', '.join(near)}?" if near and "unrecognized" in message else ""


class _Help(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> NoReturn:
        raise HelpRequested(parser.format_help())


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--json`, which prints `what`."""
    parser.add_argument("--json", action="store_true", default=None, help=f"print {what} as JSON")


def add_frame(parser: argparse.ArgumentParser) -> None:
    """Add `--frame`, which returns all numbers."""
    parser.add_argument(
        "--frame", action="store_true", default=None,
        help="return all numbers as a table, not the answer",
    )  # fmt: skip


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `-o NAME`, which stores `what`."""
    text = f"store the {what} in a variable"
    parser.add_argument("-o", "--output", metavar="NAME", type=variable, help=text)


def variable(name: str) -> str:
    """Return `name` if it is a valid variable name."""
    if not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{name!r} is not a valid variable name, such as `run`")
    return name


def near(word: str, known: Collection[str]) -> str:
    """Return `; did you mean …?` for the known word most similar to `word`, or ""."""
    found = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {found[0]}?" if found else ""


ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


def unescaped(text: str) -> str:
    """Replace the keys of `ESCAPES` in `text`: one line cannot contain a line break."""
    return re.sub(r"\\[nt\\]", lambda found: ESCAPES[found[0]], text)


def add_pace(parser: argparse.ArgumentParser) -> None:
    """Add `--pace`: tokens per second that the live view shows, whatever the run computes."""
    parser.add_argument(
        "--pace", type=_pace, metavar="N",
        help="show N tokens/s, such as 8 to read along; the run is computed at full speed",
    )  # fmt: skip


def _pace(text: str) -> float:
    try:
        return float(rate("--pace", float(text)))
    except (ValueError, OptionError):
        raise argparse.ArgumentTypeError(f"{text} is no pace: give tokens/s, such as 8") from None


def add_fields(
    parser: argparse.ArgumentParser,
    options: type[LoadOptions | GenerateOptions],
    names: Collection[str] | None = None,
    defaults: bool = True,
) -> None:
    """Add a flag for each field. Defaults stay in the dataclass: an absent flag has no key."""
    hints = typing.get_type_hints(options)
    for spec in fields(options):
        if spec.metadata.get("python_only") or (names is not None and spec.name not in names):
            continue
        flag = "--" + spec.name.replace("_", "-")
        text = help_of(spec) + (
            "" if not defaults or spec.default in (None, (), False) else f" ({spec.default})"
        )
        text = text.replace("%", "%%")
        wanted = hints[spec.name]
        if isinstance(wanted, types.UnionType):
            wanted = next(option for option in typing.get_args(wanted) if option is not type(None))
        if wanted is bool:
            parser.add_argument(flag, action="store_true", default=None, help=text)
        elif typing.get_origin(wanted) is tuple:
            kind = unescaped if spec.metadata.get("escapes") else str
            parser.add_argument(flag, action="append", type=kind, metavar="TEXT", help=text)
        else:
            words = spec.metadata.get("words", ())
            metavar = "|".join(map(str, choices_of(spec) or (wanted.__name__.upper(), *words)))
            reads = _or_words(wanted, words) if words else wanted
            reads = unescaped if spec.metadata.get("escapes") else reads
            if "metavar" in spec.metadata:
                metavar, reads = spec.metadata["metavar"], str
            parser.add_argument(flag, type=reads, metavar=metavar, help=text)


def _or_words(kind: type, words: Collection[str]) -> Callable[[str], Any]:
    """A function that reads a value of `kind`, or one of `words`."""

    def read(text: str) -> Any:
        return text if text in words else kind(text)

    read.__name__ = kind.__name__  # argparse shows this name in its errors
    return read
