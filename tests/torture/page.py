"""The page docs/torture.md, from the log, the list of finds and what the subjects say."""

from __future__ import annotations

from pathlib import Path

from .log import FINDS, LOG, Row, newest, read
from .subjects import Subject, subjects

PAGE = Path(__file__).parents[2] / "docs" / "torture.md"
HEAD = """# What was tried to break it

This page is written by `make torture` from the scripts' own output, in `tests/torture/results`; a
test compares it with them. Every subject runs for a second or two in `make test`, too. A row counts
the tries of one kind in a subject's last long run, and how often what must hold did not. Times are
what the run really took.
"""

OTHERS = "Tried in tests alone, and not counted. Found and mended:"


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    ]


def number(text: str) -> str:
    """A count with commas."""
    return f"{int(text):,}"


def section(subject: Subject, rows: list[Row], finds: list[Row]) -> list[str]:
    """A subject: what it tries, its counts, the faults that it found."""
    lines = [f"## {subject.title}", "", subject.about, ""]
    cells = [
        (
            row["tried"] + (f" ({row['unit']})" if row["unit"] else ""),
            number(row["times"]),
            number(row["failed"]),
            row["note"],
        )
        for row in rows
    ]
    if cells:
        lines += table(("tried", "times", "failed", "note"), cells)
        runs = sorted(
            {(row["date"], row["unit"], row["seconds"], row["seed"], row["commit"], row["machine"])
             for row in rows}
        )  # fmt: skip
        lines += ["", "Runs:", ""]
        lines += [
            f"- {date}{', ' + unit if unit else ''}: {number(seconds)} s, seed {seed}, "
            f"commit {commit}, {machine}"
            for date, unit, seconds, seed, commit, machine in runs
        ]
    else:
        lines += ["Only the quick form of `make test` was run so far."]
    if finds:
        lines += ["", "Found and mended:", ""]
        lines += table(
            ("date", "found", "test"),
            [(row["date"], row["found"], f"`{row['test']}`") for row in finds],
        )
    return [*lines, ""]


def render(log: Path = LOG, finds: Path = FINDS) -> str:
    """The whole page."""
    rows, found = newest(read(log)), read(finds)
    lines = [HEAD]
    for subject in subjects():
        lines += section(
            subject,
            [row for row in rows if row["subject"] == subject.name],
            [row for row in found if row["subject"] == subject.name],
        )
    names = {subject.name for subject in subjects()}
    if others := [row for row in found if row["subject"] not in names]:
        lines += ["## Disks, models, memory", "", OTHERS, ""]
        lines += table(("found", "test"), [(row["found"], f"`{row['test']}`") for row in others])
    return "\n".join(lines).rstrip() + "\n"


def write() -> None:
    """Write the page."""
    PAGE.write_text(render(), encoding="utf-8")
