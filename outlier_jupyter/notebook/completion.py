"""What Tab offers behind `%outlier` and `%%outlier`: commands, flags, and the values of flags.

All of it is read off the parsers, so that it cannot differ from what they accept. `matcher` tells
IPython, which then asks nobody else: Python's own names mean nothing on such a line, and to find
them takes Jedi a second the first time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from IPython.core.completer import (
    CompletionContext,
    SimpleCompletion,
    SimpleMatcherResult,
    context_matcher,
)

from ..options import GenerateOptions, LoadOptions
from .commands import COMMANDS
from .commands.run import cell_parser

MODELS = ("demo",)
USUAL = {
    spec.name: spec.default for kind in (LoadOptions, GenerateOptions) for spec in fields(kind)
}
"""The values that flags have when they are not given, to begin from."""
COMMAND, FLAG, VALUE, MODEL, FOLDER, VARIABLE = (
    "command", "flag", "value", "model", "path", "variable",
)  # fmt: skip
"""What is offered, as a front end shows it beside the word."""


Matcher = Callable[[CompletionContext], SimpleMatcherResult]
"""What IPython asks."""


class Offer(NamedTuple):
    """A word that may stand at the end of a line, and what it is."""

    text: str
    kind: str


def matcher(variables: Mapping[str, Any]) -> Matcher:
    """What IPython asks for the lines of the magic, with a shell's variables."""

    def outlier(context: CompletionContext) -> SimpleMatcherResult:
        line = context.text_until_cursor.lstrip()
        found = completions(line, variables) if line.split(" ")[0] in STARTS else []
        current = "" if line[-1:].isspace() else line.split()[-1] if line else ""
        return {
            "completions": [SimpleCompletion(each.text, type=each.kind) for each in found],
            "matched_fragment": current,
            "suppress": True,
            "ordered": True,
        }

    found: Matcher = context_matcher(identifier="outlier_jupyter")(outlier)
    return found


STARTS = ("%outlier", "%%outlier")


def completions(line: str, variables: Collection[str] = ()) -> list[Offer]:
    """The words that may stand at the end of `line`, which begins with the magic.

    Args:
        line: up to the cursor.
        variables: names that `--output` may be given.
    """
    magic, *words = line.split()
    current = "" if line[-1:].isspace() or not words else words.pop()
    if current == "" and not line[-1:].isspace():
        return []  # the magic's own name is being typed
    if magic == "%outlier":
        if not words:
            return [Offer(name, COMMAND) for name in COMMANDS if name.startswith(current)]
        if words[0] not in COMMANDS:
            return []
        parser, given = COMMANDS[words[0]].parser(), words[1:]
    else:
        parser, given = cell_parser(), words
    found = _words(parser, given, current, variables)
    return [each for each in found if each.text.startswith(current)]


def _words(
    parser: argparse.ArgumentParser, given: list[str], current: str, variables: Collection[str]
) -> list[Offer]:
    flags = {flag: action for action in parser._actions for flag in action.option_strings}
    before = given[-1] if given else ""
    if before in flags and flags[before].nargs != 0:
        return _values(flags[before], variables)
    words = [Offer(flag, FLAG) for flag in sorted(flags) if flag.startswith("--")]
    if current.startswith("-"):
        return words
    takes = {action.dest for action in parser._actions}
    if "runs" in takes:
        return [*_names(variables), *words]
    if "model" in takes and (not given or given[0].startswith("-")):
        models = [Offer(model, MODEL) for model in MODELS]
        return [*models, *(Offer(folder, FOLDER) for folder in _folders(current)), *words]
    return words


def _names(variables: Collection[str]) -> list[Offer]:
    return [Offer(name, VARIABLE) for name in sorted(variables) if not name.startswith("_")]


def _values(action: argparse.Action, variables: Collection[str]) -> list[Offer]:
    if action.dest in ("output", "run"):
        return _names(variables)
    words = str(action.metavar).split("|")
    chosen = [word for word in words if len(words) > 1 and not word.isupper()]
    usual = USUAL.get(action.dest)
    if usual not in (None, (), "") and str(usual) not in chosen and len(chosen) < len(words):
        chosen = [str(usual), *chosen]
    return [Offer(word, VALUE) for word in chosen]


def _folders(current: str) -> list[str]:
    """Folders that `current` begins the path of, as it was begun."""
    begun = Path(current).expanduser()
    parent = begun if current.endswith("/") else begun.parent
    if not parent.is_dir():
        return []
    shown = current[: current.rfind("/") + 1]
    return sorted(f"{shown}{child.name}/" for child in parent.iterdir() if child.is_dir())
