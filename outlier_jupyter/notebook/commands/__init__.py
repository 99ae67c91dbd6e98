"""The commands of `%outlier`, one file each.

To add one, write a file like `unload.py` and name it here; from outside of the package, `register`
a `Command`.
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
"""By name, in the order in which help shows them."""


def register(command: Command) -> None:
    """Offer one more command, or another under a name there is."""
    COMMANDS[command.name] = command


for _module in (
    load, run, plan, repack, bench, chat, compare, explain, expert, tokens, what_if, measures,
    atlas, view, save, open_run, report, ablate, sweep, resize, unload, status, memory,
):  # fmt: skip
    register(_module.COMMAND)


def help_text() -> str:
    """What `%outlier --help` and `%outlier?` show."""
    width = max(map(len, COMMANDS)) + 2
    commands = "\n".join(
        f"  %outlier {name:<{width}}{each.help}" for name, each in COMMANDS.items()
    )
    return (
        "Run Mixture-of-Experts models whose experts stay on disk, and watch where they route.\n\n"
        f"{commands}\n  %%outlier [flags]{'':<{width - 8}}run the cell's text as a prompt\n\n"
        "A `;` at the end of the line, or of a cell's first line, shows no result.\n\n"
        f"{load.COMMAND.parser().format_help()}\n{run.cell_parser().format_help()}"
    )
