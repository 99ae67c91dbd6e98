"""The commands of `%outlier`, one file each.

To add one, write a file like `unload.py` and list it here. From outside of the package, call
`register` with a `Command`.
"""

from __future__ import annotations

from . import (
    ablate,
    atlas,
    bench,
    chat,
    compare,
    expert,
    explain,
    load,
    measures,
    memory,
    open_run,
    plan,
    repack,
    report,
    resize,
    run,
    save,
    status,
    sweep,
    tokens,
    unload,
    view,
    what_if,
)
from .command import Command, Session

__all__ = ["COMMANDS", "Command", "Session", "help_text", "register"]

COMMANDS: dict[str, Command] = {}
"""The commands by name, in the order of the help text."""


def register(command: Command) -> None:
    """Add a command, or replace the one of the same name."""
    COMMANDS[command.name] = command


for _module in (
    load, run, plan, repack, bench, chat, compare, explain, expert, tokens, what_if, measures,
    atlas, view, save, open_run, report, ablate, sweep, resize, unload, status, memory,
):  # fmt: skip
    register(_module.COMMAND)


def help_text() -> str:
    """The text of `%outlier --help` and `%outlier?`."""
    width = max(map(len, COMMANDS)) + 2
    commands = "\n".join(
        f"  %outlier {name:<{width}}{each.help}" for name, each in COMMANDS.items()
    )
    return (
        "Run Mixture-of-Experts models with their experts on disk, and watch the routing.\n\n"
        f"{commands}\n  %%outlier [flags]{'':<{width - 8}}run the cell's text as a prompt\n\n"
        "A `;` at the end of the line, or of a cell's first line, hides the result.\n\n"
        f"{load.COMMAND.parser().format_help()}\n{run.cell_parser().format_help()}"
    )
