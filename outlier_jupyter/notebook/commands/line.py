"""How a line behind `%outlier` is read: flags, a prompt after them, variables in braces."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import OptionError


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
    return given_of(parser, words)


def given_of(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, Any]:
    """The same of a line that is in words already."""
    given = vars(parser.parse_args(words))
    return {
        name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None
    }


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
