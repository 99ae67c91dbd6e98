"""Writes docs/api.md: every command of the magic beside its call, and every public name.

    python tools/api_reference.py

All of it is read off the parsers and the docstrings; a test holds the page to that. What a command
is as a call stands in `FORMS`, and a command that is not there is an error.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import Any

import outlier_jupyter
from outlier_jupyter.notebook.commands import COMMANDS
from outlier_jupyter.notebook.commands.run import CELL, CELL_CALL, cell_parser

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
OPENED = ("Engine", "Run", "Trace", "Comparison", "Atlas", "Ablation", "Sweep", "Chat", "Plan")
"""The classes whose methods are listed."""
HEAD = """# Reference

Written by `python tools/api_reference.py` from the code; a test holds it to that. Every command has
`--help`, and every call a docstring with units and errors.

## Commands and calls

`%load_ext outlier_jupyter` adds `%outlier COMMAND` for a line and `%%outlier` for a cell. Whatever
they do, a call does.

| command | what it does | as a call |
|---|---|---|
"""


PARTS = {"outlier_jupyter.notebook.chat.has_conversations"}
"""Modules that hold a part of a class: what is there is told as the class's own."""


def page() -> str:
    """The whole page."""
    rows = [f"| `{CELL}` | run the cell's text as a prompt | {CELL_CALL} |"]
    rows += [f"| `%outlier {name}` | {_cell(each.help)} | {each.call} |"
             for name, each in COMMANDS.items()]  # fmt: skip
    here = ", ".join(f"`{name}`" for name, each in COMMANDS.items() if each.terminal)
    terminal = (
        f"In a terminal `outlier COMMAND` (and `python -m outlier_jupyter`) has {here}, with the "
        "same flags. Where a command takes a variable that holds a run, it takes the file of a "
        "saved run there; `run` takes the model before the prompt, and `-o FILE`."
    )
    parts = [HEAD + "\n".join(rows), "", terminal, "", "## Flags", ""]
    parts += _flags(CELL, cell_parser())
    for name, each in COMMANDS.items():
        if name != "run":  # its flags are the cell's
            parts += _flags(f"%outlier {name}", each.parser())
    parts += ["## Names", ""]
    for name in sorted(outlier_jupyter.__all__, key=str.lower):
        if not name.startswith("_") and not name.endswith("ipython_extension"):
            parts += _name(name, getattr(outlier_jupyter, name))
    return "\n".join(parts).rstrip() + "\n"


def _flags(title: str, parser: argparse.ArgumentParser) -> list[str]:
    rows = []
    for action in parser._actions:
        if "--help" in action.option_strings:
            continue
        flag = ", ".join(action.option_strings)
        value = str(action.metavar or action.dest if action.nargs != 0 else "")
        shown = f"{flag} {value}".strip() if flag else value
        rows.append(f"| `{_cell(shown)}` | {_cell((action.help or '').replace('%%', '%'))} |")
    if not rows:
        return []
    return [f"### `{title}`", "", "| flag | |", "|---|---|", *rows, ""]


def _name(name: str, thing: Any) -> list[str]:
    lines = [f"### `{name}{_signature(thing)}`", "", _first(thing), ""]
    if name not in OPENED:
        return lines
    rows = []
    ours = [
        each for each in reversed(thing.__mro__) if each.__module__ in PARTS | {thing.__module__}
    ]
    members = {key: member for each in ours for key, member in vars(each).items()}
    for key, member in sorted(members.items()):
        if key.startswith("_"):
            continue
        member = getattr(member, "__func__", member)
        if isinstance(member, property):
            rows.append(f"- `.{key}`: {_first(member.fget)}")
        elif inspect.isfunction(member):
            rows.append(f"- `.{key}{_signature(member)}`: {_first(member)}")
    return [*lines, *rows, ""]


def _signature(thing: Any) -> str:
    """Names and defaults without types, which the docstrings explain; "" of what has none."""
    if inspect.isclass(thing):
        return ""
    told = []
    for each in inspect.signature(thing).parameters.values():
        if each.name in ("self", "cls"):
            continue
        stars = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        default = "" if each.default is each.empty else f"={each.default!r}"
        plain = default if "<" not in default else "=…"
        told.append(f"{stars}{each.name}{plain}")
    return f"({', '.join(told)})"


def _first(thing: Any) -> str:
    """The first paragraph of a docstring."""
    text = inspect.getdoc(thing) or ""
    return " ".join(text.split("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write the page."""
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
