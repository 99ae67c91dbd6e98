"""A command: its name, one line of help, its arguments and its function.

Parser, help, completion and the reference iterate over the registered commands, so everything about
one command stands in its own file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...engine.engine import Engine
from ...options import GenerateOptions, LoadOptions
from ...runs.run import Run
from .parsing import Parser

MODEL = "demo, a folder, or a Hugging Face id"
"""Help text of an argument that names a model."""


GROUPS = ("start", "watch", "explain", "research", "more")
"""The headings of the list of commands; `more` is for commands from outside."""


class Session(Protocol):
    """What a command works with: one engine, variables and an output.

    Attributes:
        engine: the loaded engine, or None; it may be closed.
        variables: the user's.
    """

    engine: Engine | None

    @property
    def variables(self) -> MutableMapping[str, Any]:
        """The user's variables."""

    def loaded(self) -> Engine:
        """The engine, open.

        Raises:
            OutlierError: no model is loaded.
        """

    def last_run(self) -> Run | None:
        """The newest run of the engine."""

    def defaults(self, kind: type[LoadOptions | GenerateOptions]) -> dict[str, Any]:
        """The options that the user configured for all commands."""

    def store(self, name: str | None, value: object) -> None:
        """Store `value` in a variable, unless `name` is None."""

    def write(self, text: str) -> None:
        """Print text."""

    def prompt(self, args: dict[str, Any], text: str) -> Any:
        """Run `text` as a prompt with these arguments of `run`, and show the run.

        With `save_context` it is only read, and the context is returned; with `vary` or `each` its
        variants are.
        """


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: the word after `%outlier`.
        help: what it does, in one line.
        run: called with the session and the arguments on the line (absent ones have no key). Its
            result is shown. It is also stored in the variable `output`, unless `run` removed that
            key from the arguments.
        arguments: adds its arguments to a parser.
        description: longer text for its own help (default: `help`).
        takes_text: the rest of the line, after the flags, is a text for the model.
        call: the equivalent Python call, in Markdown.
        terminal: whether it works without a notebook.
        group: its heading in the list of commands, one of `GROUPS`.
    """

    name: str
    help: str
    run: Callable[[Session, dict[str, Any]], object]
    arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    description: str = ""
    takes_text: bool = False
    call: str = ""
    terminal: bool = False
    group: str = "more"

    def parser(self, prog: str = "") -> argparse.ArgumentParser:
        """The parser of its line."""
        about = self.description or f"{self.help[:1].upper()}{self.help[1:]}."
        parser = Parser(prog=prog or f"%outlier {self.name}", description=about)
        self.arguments(parser)
        return parser
