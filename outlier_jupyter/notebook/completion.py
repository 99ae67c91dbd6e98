"""Tab completion after `%outlier` and `%%outlier`: commands, flags, and values of flags.

All candidates come from the parsers, so completion cannot differ from what they accept. The
matcher suppresses IPython's other matchers: Python names mean nothing on such a line, and Jedi
takes a second to find them the first time.
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
DEFAULTS = {
    spec.name: spec.default for kind in (LoadOptions, GenerateOptions) for spec in fields(kind)
}
"""The default value of each flag."""
COMMAND, FLAG, VALUE, MODEL, FOLDER, VARIABLE = (
    "command", "flag", "value", "model", "path", "variable",
)  # fmt: skip
"""Kinds of candidates, as a front end shows them beside the word."""

Matcher = Callable[[CompletionContext], SimpleMatcherResult]
"""A matcher of IPython's completer."""


class Candidate(NamedTuple):
    """A possible last word of a line, and its kind."""

    text: str
    kind: str


def matcher(variables: Mapping[str, Any]) -> Matcher:
    """Make the matcher for lines of the magic, with a shell's variables."""

    def outlier(context: CompletionContext) -> SimpleMatcherResult:
        line = context.text_until_cursor.lstrip()
        candidates = completions(line, variables) if line.split(" ")[0] in STARTS else []
        current = "" if line[-1:].isspace() else line.split()[-1] if line else ""
        return {
            "completions": [SimpleCompletion(each.text, type=each.kind) for each in candidates],
            "matched_fragment": current,
            "suppress": True,
            "ordered": True,
        }

    candidates: Matcher = context_matcher(identifier="outlier_jupyter")(outlier)
    return candidates


STARTS = ("%outlier", "%%outlier")


def completions(line: str, variables: Collection[str] = ()) -> list[Candidate]:
    """The possible last words of `line`, which begins with the magic.

    Args:
        line: the text up to the cursor.
        variables: names of variables, for `--output` and runs.
    """
    magic, *words = line.split()
    current = "" if line[-1:].isspace() or not words else words.pop()
    if current == "" and not line[-1:].isspace():
        return []  # the name of the magic is still being typed
    if magic == "%outlier":
        if not words:
            return [Candidate(name, COMMAND) for name in COMMANDS if name.startswith(current)]
        if words[0] not in COMMANDS:
            return []
        parser, before = COMMANDS[words[0]].parser(), words[1:]
    else:
        parser, before = cell_parser(), words
    candidates = _candidates(parser, before, current, variables)
    return [each for each in candidates if each.text.startswith(current)]


def _candidates(
    parser: argparse.ArgumentParser,
    before: list[str],
    current: str,
    variables: Collection[str],
) -> list[Candidate]:
    flags = {flag: action for action in parser._actions for flag in action.option_strings}
    last = before[-1] if before else ""
    if last in flags and flags[last].nargs != 0:
        return _values(flags[last], variables)
    words = [Candidate(flag, FLAG) for flag in sorted(flags) if flag.startswith("--")]
    if current.startswith("-"):
        return words
    arguments = {action.dest for action in parser._actions}
    if "runs" in arguments:
        return [*_names(variables), *words]
    if "model" in arguments and (not before or before[0].startswith("-")):
        models = [Candidate(model, MODEL) for model in MODELS]
        return [*models, *(Candidate(folder, FOLDER) for folder in _folders(current)), *words]
    return words


def _names(variables: Collection[str]) -> list[Candidate]:
    return [Candidate(name, VARIABLE) for name in sorted(variables) if not name.startswith("_")]


def _values(action: argparse.Action, variables: Collection[str]) -> list[Candidate]:
    if action.dest in ("output", "run"):
        return _names(variables)
    words = str(action.metavar).split("|")
    values = [word for word in words if len(words) > 1 and not word.isupper()]
    default = DEFAULTS.get(action.dest)
    if default not in (None, (), "") and str(default) not in values and len(values) < len(words):
        values = [str(default), *values]
    return [Candidate(word, VALUE) for word in values]


def _folders(current: str) -> list[str]:
    """The folders whose path begins with `current`, written in the same form; none of an unreadable
    folder, an unknown user, or a text that is no path.
    """
    prefix = current[: current.rfind("/") + 1]
    try:
        path = Path(current).expanduser()
        parent = path if current.endswith("/") else path.parent
        return sorted(f"{prefix}{child.name}/" for child in parent.iterdir() if child.is_dir())
    except (OSError, RuntimeError, ValueError):
        return []
