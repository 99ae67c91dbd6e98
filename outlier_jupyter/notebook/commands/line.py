"""Parse the line after `%outlier`: flags, then a prompt, with variables in braces."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import OptionError, shown


def split_prompt(parser: argparse.ArgumentParser, line: str) -> tuple[str, str]:
    """Split `line` into its flags and the prompt after them, without the prompt's quotes.

    The prompt is not split as a shell does: an apostrophe would be an open quote. `--` ends the
    flags.
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


TEXTS = ("--system", "--stop", "--stop-tokens", "--logit-bias", "--prefill-answer", "--wanted")
"""Flags whose values are text for the model."""


def expand_flags(line: str, expand: Callable[[str], str]) -> str:
    """Expand variables in a prompt's flags; in the values of `TEXTS` only with `--fill`."""
    words = re.findall(r"(?:\{[^{}]*\}|[^\s\"'{]|\"(?:\\.|[^\"\\])*\"|'[^']*')+|\S", line)
    if "--fill" in words:
        return expand(line)
    own = tuple(f"{flag}=" for flag in TEXTS)
    return " ".join(
        word if before in TEXTS or word.startswith(own) else expand(word)
        for before, word in zip(["", *words], words, strict=False)
    )


LIST = re.compile(r"(?<!\S)\w+=\[(?:\"[^\"]*\"|'[^']*'|[^\]\"'])*\]")
"""NAME=[…] with values in quotes, which a shell's rules would remove."""


def parse(parser: argparse.ArgumentParser, line: str) -> dict[str, Any]:
    """Parse `line` into the arguments it contains; absent arguments have no key.

    Raises:
        OptionError: the line cannot be parsed.
        HelpRequested: the line contains `--help`.
    """
    if re.search(r"(?<!\S)--(vary|each)\b", line):
        line = LIST.sub(lambda found: shlex.quote(found[0]), line)
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise OptionError(f"{parser.prog}: {error}: close the quotes in {shown(line)}") from error
    return parse_words(parser, words)


def parse_words(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, Any]:
    """The same for a line already split into words."""
    args = vars(parser.parse_args(words))
    return {
        name: tuple(v) if isinstance(v, list) else v for name, v in args.items() if v is not None
    }


def fill(cell: str, variables: Mapping[str, Any]) -> str:
    """Replace `{name}`, `{name.attribute}` and `{name:format}` in `cell`, as `str.format` does.

    Raises:
        OptionError: a variable does not exist, or braces do not match.
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


def lists_of(words: Sequence[str], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name, from words NAME=[…] in Python's form or NAME=VARIABLE.

    Raises:
        OptionError: a word of another form, or a variable that does not exist.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, is_pair, value = word.partition("=")
        if not is_pair or not name.isidentifier():
            raise OptionError(
                f'{shown(word)} names no field: give NAME=[…], such as tone=["formal","plain"]'
            )
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            if value not in variables:
                raise OptionError(
                    f"{name}={shown(value)} is neither a list nor a variable: give "
                    f'{name}=["one","two"], or the name of a variable that holds values'
                ) from None
            found[name] = variables[value]
    return found
