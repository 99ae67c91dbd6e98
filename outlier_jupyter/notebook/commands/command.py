"""What a command is: a name, a line of help, its arguments, and what it does.

Parser, help, completion and the reference iterate over the commands there are; nothing about one
stands anywhere but in its file.
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
"""What names a model."""


class Session(Protocol):
    """What a command works with: one engine, variables, and where to write.

    Attributes:
        engine: the loaded one, or None; it may have been closed.
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
        """The options that the user has set for all commands."""

    def store(self, name: str | None, value: object) -> None:
        """Put `value` into a variable, if one is named."""

    def write(self, text: str) -> None:
        """Print."""

    def prompt(self, given: dict[str, Any], text: str) -> Run | None:
        """Run `text` as a prompt, as the flags `given` ask, and show it."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: as it is written behind `%outlier`.
        help: what it does, in a line.
        run: given the session and the arguments that were given (what was left out is left out);
            its result is shown, and stored where `output` is still among them afterwards.
        arguments: adds its arguments to a parser.
        description: for its own help, where that is more than `help`.
        takes_text: the rest of the line, after the flags, is a text for the model.
        call: what does the same in Python, in Markdown.
        terminal: whether it is of use without a notebook.
    """

    name: str
    help: str
    run: Callable[[Session, dict[str, Any]], object]
    arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    description: str = ""
    takes_text: bool = False
    call: str = ""
    terminal: bool = False

    def parser(self, prog: str = "") -> argparse.ArgumentParser:
        """What reads its line."""
        about = self.description or f"{self.help.capitalize()}."
        parser = Parser(prog=prog or f"%outlier {self.name}", description=about)
        self.arguments(parser)
        return parser
