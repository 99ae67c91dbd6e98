"""The commands and their flags in Markdown, from the list that parser, help and completion use."""

from __future__ import annotations

import argparse

from outlier_jupyter.notebook.commands import COMMANDS
from outlier_jupyter.notebook.commands.run import CELL, CELL_CALL, cell_parser


def commands() -> str:
    """A table: each command, what it does, the same as a call, and whether a terminal has it."""
    rows = [f"| [`{CELL}`](#cell) | run the cell's text as a prompt | {CELL_CALL} | |"]
    rows += [
        f"| [`%outlier {name}`](#{name}) | {cell(each.help)} | {cell(each.call)} | "
        f"{'yes' if each.terminal else ''} |"
        for name, each in COMMANDS.items()
    ]
    head = ["| command | what it does | as a call | terminal |", "|---|---|---|---|"]
    return "\n".join(head + rows)


def flags() -> str:
    """A section for each command, with a table of its arguments and flags."""
    parts = section("cell", CELL, cell_parser())
    for name, each in COMMANDS.items():
        parts += section(name, f"%outlier {name}", each.parser())
    return "\n".join(parts)


def section(target: str, title: str, parser: argparse.ArgumentParser) -> list[str]:
    """A heading, a line, and a row for each argument of a parser."""
    rows = [row(each) for each in parser._actions if "--help" not in each.option_strings]
    table = ["| argument | |", "|---|---|", *rows] if rows else ["It takes no arguments."]
    return [f"({target})=", f"## `{title}`", "", cell(parser.description or ""), "", *table, ""]


def row(action: argparse.Action) -> str:
    """One argument: how it is written, and what it is for."""
    value = str(action.metavar or action.dest) if action.nargs != 0 else ""
    shown = " ".join(filter(None, (", ".join(action.option_strings), value)))
    return f"| `{cell(shown)}` | {cell((action.help or '').replace('%%', '%'))} |"


def cell(text: str) -> str:
    """Text for a cell of a table, in which nothing is markup but code."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("{{", "{\u200b{")
