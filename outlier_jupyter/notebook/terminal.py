"""The commands in a terminal, such as `outlier plan MODEL` and `outlier run MODEL PROMPT`.

They are the magic's commands with the same flags. Where the magic takes a variable that holds a
run, a terminal takes the file of a saved run. It prints results instead of displaying them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import fields
from typing import Any

from ..engine.engine import Engine
from ..engine.load import load
from ..errors import OptionError, OutlierError
from ..options import GenerateOptions, LoadOptions
from ..runs.run import Interrupted, Run
from ..trace.answers import FrameAnswer
from .commands import COMMANDS, listing
from .commands.command import MODEL, Command
from .commands.line import parse_words
from .commands.parsing import HelpRequested, add_fields, near, variable
from .commands.status import as_json

LOAD_OPTIONS = sorted(
    {spec.name for spec in fields(LoadOptions)}
    - {spec.name for spec in fields(GenerateOptions)}
    - {"quiet"}
)
"""Options of `load` that `outlier run` also takes, where their names are not already in use."""
NOTEBOOK_ONLY = {"fill", "no_widget", "pace", "figure", "vary", "each", "wanted"}
"""Flags that need a notebook: its variables or its display."""


class SavedRuns(MutableMapping[str, Any]):
    """The variables of a terminal: a path maps to the run saved there; nothing is stored."""

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
    """A `commands.Session` that prints."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.variables: MutableMapping[str, Any] = SavedRuns()

    def loaded(self) -> Engine:
        """The engine.

        Raises:
            OutlierError: the command has no model.
        """
        if self.engine is None:
            raise OutlierError("this command needs a model: add one to the line")
        return self.engine

    def last_run(self) -> Run | None:
        """None: in a terminal a run is a file."""
        return None

    def defaults(self, kind: type[LoadOptions | GenerateOptions]) -> dict[str, Any]:
        """None: a terminal has no `%config`."""
        return {}

    def store(self, name: str | None, value: object) -> None:
        """Do nothing: a terminal has no variables."""

    def write(self, text: str) -> None:
        """Print text."""
        sys.stdout.write(text)

    def prompt(self, args: dict[str, Any], text: str) -> Run | None:
        """Run `text`; print the answer as it is generated, then the summary."""
        output, quiet, json = (args.pop(name, None) for name in ("output", "quiet", "json"))
        times = args.pop("repeat", 1)
        engine = self.loaded()
        if (file := args.pop("save_context", None)) is not None:
            self.write(f"{engine.save_context(text, file, **args)}\n")
            return None
        for _ in range(times):
            steps = engine.stream(text, **args)
            try:
                for step in steps:
                    if not (quiet or json):
                        self.write(step.text)
                        sys.stdout.flush()
            finally:
                steps.close()  # on Ctrl-C the partial run becomes `last_run`
                if output is not None and engine.last_run is not None:
                    engine.last_run.save(output)
            assert engine.last_run is not None
            if json:
                self.write(f"{as_json(engine.last_run.summary())}\n")
            elif not quiet:
                self.write(f"\n{engine.last_run.summary()}\n")
        return None


def main(words: Sequence[str]) -> int:
    """Run one command line; return 0 on success, 2 on an error, 130 on Ctrl-C."""
    try:
        result = run_command(words)
    except HelpRequested as help_request:
        sys.stdout.write(str(help_request))
        return 0
    except OutlierError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt as error:
        if isinstance(error, Interrupted):
            sys.stderr.write(f"\ninterrupted: {error.run.summary()}\n")
        return 130
    if result is not None:
        sys.stdout.write(f"{as_text(result)}\n")
    return 0


def as_text(result: object) -> str:
    """Format a result for a terminal: tables in full, a run with its summary."""
    if isinstance(result, Run):
        return f"{result.text}\n{result.summary()}"
    if isinstance(result, FrameAnswer):
        return str(result).replace("All numbers: .frame", "All numbers: --frame")
    table = getattr(result, "to_string", None)  # a pandas table; `str` would omit rows
    return str(result if table is None else table(index=False))


def run_command(words: Sequence[str]) -> object:
    """Run one command and return its result.

    Raises:
        OutlierError: the line cannot be parsed, or the command fails.
        HelpRequested: the line asks for help.
    """
    commands = {name: each for name, each in COMMANDS.items() if each.terminal}
    name = words[0] if words else ""
    if name in ("", "help", "-h", "--help"):
        raise HelpRequested(help_text(commands))
    if name not in commands:
        reason = "needs a notebook" if name in COMMANDS else "is not a command"
        raise OptionError(
            f"outlier {name} {reason}{near(name, commands)}; the commands are {', '.join(commands)}"
        )
    command, session = commands[name], Terminal()
    args = parse_words(parser_of(command), list(words[1:]))
    if command.takes_text:
        args["text"] = " ".join(args["text"])
        options = {key: args.pop(key) for key in LOAD_OPTIONS if key in args}
        session.engine = load(args.pop("model"), quiet=bool(args.get("quiet")), **options)
    try:
        return command.run(session, args)
    finally:
        if session.engine is not None:
            session.engine.close()


def parser_of(command: Command) -> argparse.ArgumentParser:
    """The parser of a command's line in a terminal."""
    parser = command.parser(f"outlier {command.name}")
    if command.takes_text:
        parser.add_argument("model", help=MODEL)
        parser.add_argument("text", nargs="+", help="the prompt")
        add_fields(parser, LoadOptions, LOAD_OPTIONS)
    for action in list[Any](parser._actions):
        saves_run = command.takes_text  # other results are printed
        if action.dest in NOTEBOOK_ONLY or (action.dest == "output" and not saves_run):
            action.container._remove_action(action)  # the group, which prints the help
            for flag in action.option_strings:
                del parser._option_string_actions[flag]
        if action.type is variable:
            action.type, action.metavar = str, "FILE"
            if action.dest == "output":
                action.help = "save the run to this file"
            action.help = re.sub(r" \(default: .*", "", str(action.help))
            action.help = action.help.replace("variables that hold", "files of saved")
            action.help = re.sub(r"(the|a) variable that holds", "file of", action.help)
    return parser


def help_text(commands: dict[str, Command]) -> str:
    """The text of `outlier --help`: one screen."""
    return (
        "Run Mixture-of-Experts models with their experts on disk, and analyse their runs.\n\n"
        f"{listing(commands, 'outlier ')}"
        "A run is a file written by `run.save` or `%outlier save`. Each command has --help.\n"
    )
