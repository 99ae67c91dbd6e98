"""What Tab offers behind `%outlier` and `%%outlier`: commands, flags, and the values of flags.

Pure: a line goes in, words come out. All of it is read off the parsers, so that it cannot differ
from what they accept.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path

from ..options import GenerateOptions, LoadOptions
from .commands import COMMANDS
from .commands.run import cell_parser

MODELS = ("demo",)
USUAL = {
    spec.name: spec.default for kind in (LoadOptions, GenerateOptions) for spec in fields(kind)
}
"""The values that flags have when they are not given, to begin from."""


def completions(line: str, variables: Collection[str] = ()) -> list[str]:
    """The words that may stand at the end of `line`, which begins with the magic.

    Args:
        line: up to the cursor.
        variables: names that `--output` may be given.
    """
    magic, *words = line.split()
    current = "" if line[-1:].isspace() or not words else words.pop()
    if magic == "%outlier":
        if not words:
            return [command for command in COMMANDS if command.startswith(current)]
        if words[0] not in COMMANDS:
            return []
        parser, given = COMMANDS[words[0]].parser(), words[1:]
    else:
        parser, given = cell_parser(), words
    before = given[-1] if given else ""
    return [w for w in _words(parser, before, current, variables) if w.startswith(current)]


def _words(
    parser: argparse.ArgumentParser, before: str, current: str, variables: Collection[str]
) -> list[str]:
    flags = {flag: action for action in parser._actions for flag in action.option_strings}
    if before in flags and flags[before].nargs != 0:
        return _values(flags[before], variables)
    words = sorted(flag for flag in flags if flag.startswith("--"))
    takes_model = any(action.dest == "model" for action in parser._actions)
    if any(action.dest == "runs" for action in parser._actions) and not current.startswith("-"):
        return [*sorted(name for name in variables if not name.startswith("_")), *words]
    if takes_model and not current.startswith("-"):
        return [*MODELS, *_folders(current), *words]
    return words


def _values(action: argparse.Action, variables: Collection[str]) -> list[str]:
    if action.dest in ("output", "run"):
        return sorted(name for name in variables if not name.startswith("_"))
    words = str(action.metavar).split("|")
    chosen = [word for word in words if len(words) > 1 and not word.isupper()]
    usual = USUAL.get(action.dest)
    if usual in (None, (), "") or str(usual) in chosen:
        return chosen
    return chosen if len(chosen) == len(words) else [str(usual), *chosen]


def _folders(current: str) -> list[str]:
    """Folders that `current` begins the path of, as it was begun."""
    begun = Path(current).expanduser()
    parent = begun if current.endswith("/") else begun.parent
    if not parent.is_dir():
        return []
    shown = current[: current.rfind("/") + 1]
    return sorted(f"{shown}{child.name}/" for child in parent.iterdir() if child.is_dir())
