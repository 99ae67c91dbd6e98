"""Where benchmark rows go: one CSV per benchmark and machine, each row with its commit."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

OWN = ("benchmarks/results", "README.md", "docs")
"""What measuring changes itself."""

Row = dict[str, object]


def machine() -> str:
    """Processor kind and core count: what a row must be read with."""
    return f"{platform.system()}-{platform.machine()}-{os.cpu_count()}cores"


def commit() -> str:
    """The commit that is measured, marked where the code differs from it; rows and README may."""
    asked = ("describe", "--always"), ("status", "--porcelain", "--", ".", *(f":!{p}" for p in OWN))
    name, changed = (
        subprocess.run(
            ["git", *words], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.strip()
        for words in asked
    )
    return f"{name}-dirty" if changed else name


def append(name: str, rows: list[Row]) -> Path:
    """Add `rows`, stamped with date, commit and machine, to the file of benchmark `name`."""
    stamp: Row = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": machine(),
    }
    stamped = [stamp | row for row in rows]
    file = RESULTS / f"{name}-{machine()}.csv"
    file.parent.mkdir(exist_ok=True)
    write(file, [*read(file), *stamped])
    return file


def read(file: Path) -> list[Row]:
    """The rows of a file, every value as text; none where there is no file."""
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return [dict(row) for row in csv.DictReader(stream)]


def write(file: Path, rows: list[Row]) -> None:
    """Write a file anew: a column that came later is empty in the rows before."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
