"""The commands of `%outlier`, one file each.

To add one, write a file like `unload.py` and list it here. From outside of the package, call
`register` with a `Command`.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    segments,
    status,
    sweep,
    tokens,
    unload,
    view,
    what_if,
)
from .command import GROUPS, Command, Session

__all__ = ["COMMANDS", "Command", "Session", "help_text", "listing", "register"]

COMMANDS: dict[str, Command] = {}
"""The commands by name, in the order of the help text."""


def register(command: Command) -> None:
    """Add a command, or replace the one of the same name."""
    COMMANDS[command.name] = command


for _module in (
    load, run, plan, repack, bench, chat, compare, explain, expert, tokens, what_if, measures,
    segments, atlas, view, save, open_run, report, ablate, sweep, resize, unload, status, memory,
):  # fmt: skip
    register(_module.COMMAND)


def help_text() -> str:
    """The text of `%outlier --help` and `%outlier?`: one screen."""
    return (
        "Run Mixture-of-Experts models with their experts on disk, and watch the routing.\n\n"
        f"{listing(COMMANDS, '%outlier ')}"
        "`%outlier COMMAND --help` has the details. A `;` at the end hides the result.\n"
    )


def listing(commands: Mapping[str, Command], program: str) -> str:
    """The commands by group, a line each; `program` is what stands before a name."""
    lines = {group: [] for group in GROUPS}  # type: dict[str, list[tuple[str, str]]]
    for name, each in commands.items():
        lines[each.group if each.group in lines else "more"].append((program + name, each.help))
    if program.startswith("%"):
        lines["start"].insert(1, ("%%outlier", "run the cell's text as a prompt"))
    width = max(len(name) for group in lines.values() for name, _ in group) + 2
    return "".join(
        f"{group.capitalize()}\n"
        + "".join(f"  {name:<{width}}{text}\n" for name, text in rows)
        + "\n"
        for group, rows in lines.items()
        if rows
    )
