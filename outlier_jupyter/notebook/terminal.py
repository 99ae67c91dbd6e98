"""The commands in a terminal: `outlier plan MODEL`, `outlier run MODEL PROMPT`, and others.

They are those of the magic, with the same flags. Where the magic takes a variable that holds a run,
a terminal takes the file of a saved run; where it shows a result, a terminal prints it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import fields
from typing import Any

from ..engine.engine import Engine
from ..engine.load import load
from ..errors import OptionError, OutlierError
from ..options import GenerateOptions, LoadOptions
from ..runs.run import Interrupted, Run
from .commands import COMMANDS
from .commands.command import MODEL, Command
from .commands.line import fill, given_of
from .commands.parsing import HelpAsked, add_fields, near, variable
from .commands.status import as_json

LOADING = sorted(
    {spec.name for spec in fields(LoadOptions)}
    - {spec.name for spec in fields(GenerateOptions)}
    - {"quiet"}
)
"""The options of loading that `run` takes as well: those whose names mean nothing else there."""
NOT_HERE = {"no_widget", "figure"}
"""Flags that need a notebook."""


class SavedRuns(MutableMapping[str, Any]):
    """What commands take for variables: files of saved runs, by their paths, and nothing kept."""

    def __getitem__(self, path: str) -> Run:
        return Run.load(path)

    def __setitem__(self, path: str, value: object) -> None:
        raise OptionError("a terminal has no variables")

    def __delitem__(self, path: str) -> None:
        raise OptionError("a terminal has no variables")

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class Terminal:
    """What commands work with here; see `commands.Session`."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.variables: MutableMapping[str, Any] = SavedRuns()

    def loaded(self) -> Engine:
        """The engine.

        Raises:
            OutlierError: this command names no model.
        """
        if self.engine is None:
            raise OutlierError("this command needs a model: name it")
        return self.engine

    def last_run(self) -> Run | None:
        """There is none: a run is a file here."""
        return None

    def defaults(self, kind: type[LoadOptions | GenerateOptions]) -> dict[str, Any]:
        """None are set."""
        return {}

    def store(self, name: str | None, value: object) -> None:
        """Nothing: there are no variables."""

    def write(self, text: str) -> None:
        """Print."""
        sys.stdout.write(text)

    def prompt(self, given: dict[str, Any], text: str) -> Run | None:
        """Run `text`, and print what comes as it comes, then the summary."""
        output, quiet, json = (given.pop(name, None) for name in ("output", "quiet", "json"))
        times = given.pop("repeat", 1)
        if given.pop("fill", None):
            text = fill(text, {})
        engine = self.loaded()
        for _ in range(times):
            steps = engine.stream(text, **given)
            try:
                for step in steps:
                    if not (quiet or json):
                        self.write(step.text)
                        sys.stdout.flush()
            finally:
                steps.close()  # what was made until Ctrl-C is a run
                if output is not None and engine.last_run is not None:
                    engine.last_run.save(output)
            assert engine.last_run is not None
            if json:
                self.write(f"{as_json(engine.last_run.summary())}\n")
            elif not quiet:
                self.write(f"\n{engine.last_run.summary()}\n")
        return None


def main(words: Sequence[str]) -> int:
    """Do what these words say; 0 where it went well, 2 for what cannot be done, 130 for Ctrl-C."""
    try:
        result = run_command(words)
    except HelpAsked as asked:
        sys.stdout.write(str(asked))
        return 0
    except OutlierError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt as error:
        if isinstance(error, Interrupted):
            sys.stderr.write(f"\ninterrupted: {error.run.summary()}\n")
        return 130
    if result is not None:
        sys.stdout.write(f"{in_words(result)}\n")
    return 0


def in_words(result: object) -> str:
    """A result as a terminal shows it: tables whole, a run with its summary."""
    if isinstance(result, Run):
        return f"{result.text}\n{result.summary()}"
    table = getattr(result, "to_string", None)  # of pandas: str would leave rows out
    return str(result if table is None else table(index=False))


def run_command(words: Sequence[str]) -> object:
    """The result of one command.

    Raises:
        OutlierError: what cannot be understood or done.
        HelpAsked: help was wanted.
    """
    offered = {name: each for name, each in COMMANDS.items() if each.terminal}
    name = words[0] if words else ""
    if name in ("", "help", "-h", "--help"):
        raise HelpAsked(help_text(offered))
    if name not in offered:
        said = "needs a notebook" if name in COMMANDS else "is not a command"
        raise OptionError(
            f"outlier {name} {said}{near(name, offered)}; there are {', '.join(offered)}"
        )
    command, session = offered[name], Terminal()
    given = given_of(parser_of(command), list(words[1:]))
    if command.takes_text:
        given["text"] = " ".join(given["text"])
        options = {key: given.pop(key) for key in LOADING if key in given}
        session.engine = load(given.pop("model"), quiet=bool(given.get("quiet")), **options)
    try:
        return command.run(session, given)
    finally:
        if session.engine is not None:
            session.engine.close()


def parser_of(command: Command) -> argparse.ArgumentParser:
    """What reads a command's words here."""
    parser = command.parser(f"outlier {command.name}")
    if command.takes_text:
        parser.add_argument("model", help=MODEL)
        parser.add_argument("text", nargs="+", help="the prompt")
        add_fields(parser, LoadOptions, LOADING)
    for action in list(parser._actions):
        saves = command.takes_text  # a run, to a file; what else is found is printed
        if action.dest in NOT_HERE or (action.dest == "output" and not saves):
            parser._remove_action(action)
            for flag in action.option_strings:
                del parser._option_string_actions[flag]
        if action.type is variable:
            action.type, action.metavar = str, "FILE"
            if action.dest == "output":
                action.help = "save the run to this file"
            action.help = str(action.help).replace("variables that hold", "files of saved")
            action.help = action.help.replace("the variable that holds the run", "of a saved run")
            action.help = action.help.replace("a variable that holds a run", "of a saved run")
    return parser


def help_text(offered: dict[str, Command]) -> str:
    """What `outlier --help` shows."""
    width = max(map(len, offered)) + 2
    lines = "\n".join(f"  outlier {name:<{width}}{each.help}" for name, each in offered.items())
    return (
        "Run Mixture-of-Experts models whose experts stay on disk, and ask what their runs did.\n\n"
        f"{lines}\n\nA run is the file that `run.save` or `%outlier save` wrote. Each command has "
        "--help.\n"
    )
