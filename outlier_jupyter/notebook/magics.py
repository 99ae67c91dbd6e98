"""`%outlier` and `%%outlier`: the engine, driven cell by cell.

The magics parse, ask the engine and show what comes of it; they compute nothing. A run's result
is the cell's value. While it runs the cell shows the live view; when it ends that is replaced,
in the same output, by a view that needs no kernel, so that a saved notebook still shows it.
"""

from __future__ import annotations

import sys
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class

from ..engine import Engine
from ..errors import OptionError, OutlierError
from ..loading import load
from ..run import Interrupted, Run
from .arguments import (
    COMMANDS,
    HelpAsked,
    bare_parser,
    cell_parser,
    chat_parser,
    help_text,
    load_parser,
    parse,
)
from .chat import Chat
from .show import show_run


@magics_class
class OutlierMagics(Magics):
    """The magics of one shell, and the engine they share."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.shell: InteractiveShell
        self.engine: Engine | None = None
        table = shell.magics_manager.magics
        self.replaced = {kind: table[kind].get("outlier") for kind in ("line", "cell")}

    @line_cell_magic
    def outlier(self, line: str, cell: str | None = None) -> object:
        """Replaced by `help_text()` when the extension is loaded."""
        try:
            if cell is not None:
                return self._prompt(line, cell)
            command, _, rest = line.strip().partition(" ")
            return self._command(command, rest)
        except HelpAsked as asked:
            sys.stdout.write(str(asked))
            return None

    def _command(self, command: str, rest: str) -> object:
        if command in ("", "help", "-h", "--help"):
            raise HelpAsked(help_text())
        if command not in COMMANDS:
            raise OptionError(
                f"%outlier {command} is not a command: give {', '.join(COMMANDS)}, "
                "or put the prompt in a %%outlier cell"
            )
        if command == "load":
            return self._load(parse(load_parser(), rest))
        if command == "chat":
            return self._chat(parse(chat_parser(), rest))
        parse(bare_parser(command), rest)
        if command == "unload":
            self.unload()
        else:
            sys.stdout.write(f"{self._loaded().status()}\n")
        return None

    def _load(self, given: dict[str, Any]) -> Engine:
        output = given.pop("output", None)
        engine = load(given.pop("model"), **given)
        self.unload()
        self.engine = engine
        self._store(output, engine)
        return engine

    def _chat(self, given: dict[str, Any]) -> Chat:
        output = given.pop("output", None)
        chat = Chat(self._loaded(), **given)
        self._store(output, chat)
        return chat

    def unload(self) -> None:
        """Close the engine, if there is one."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()

    def _prompt(self, line: str, cell: str) -> Run:
        given = parse(cell_parser(), line)
        output = given.pop("output", None)
        engine = self._loaded()
        show = show_run if hasattr(self.shell, "kernel") else stream_text
        try:
            run = show(engine, cell.strip("\n"), given)
        except Interrupted as stop:
            self._store(output, stop.run)
            raise
        self._store(output, run)
        return run.brief_once()

    def _loaded(self) -> Engine:
        if self.engine is None or self.engine.closed:
            raise OutlierError("no model is loaded: run `%outlier load demo` first")
        return self.engine

    def _store(self, name: str | None, value: object) -> None:
        if name is not None:
            self.shell.user_ns[name] = value


def stream_text(engine: Engine, prompt: str, options: dict[str, Any]) -> Run:
    """Generate from `prompt` and write the text to the terminal as it comes."""
    for step in engine.stream(prompt, **options):
        sys.stdout.write(step.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    assert engine.last_run is not None
    return engine.last_run


def register(shell: InteractiveShell) -> None:
    """Add the magics to `shell`, remembering what stood under their name."""
    OutlierMagics.outlier.__doc__ = help_text()
    shell.register_magics(OutlierMagics(shell))


def unregister(shell: InteractiveShell) -> None:
    """Close the engine and put back what stood under the magics' name."""
    table = shell.magics_manager.magics
    magics = getattr(table["line"].get("outlier"), "__self__", None)
    if not isinstance(magics, OutlierMagics):
        return
    magics.unload()
    for kind, before in magics.replaced.items():
        if before is None:
            table[kind].pop("outlier", None)
        else:
            table[kind]["outlier"] = before
    shell.magics_manager.registry.pop("OutlierMagics", None)
