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

Row = dict[str, object]


def machine() -> str:
    """Processor kind and core count: what a row must be read with."""
    return f"{platform.system()}-{platform.machine()}-{os.cpu_count()}cores"


def append(name: str, rows: list[Row]) -> Path:
    """Add `rows`, stamped with date, commit and machine, to the file of benchmark `name`."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.strip()
    stamp: Row = {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
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
