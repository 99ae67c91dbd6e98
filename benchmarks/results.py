"""Where benchmark rows go: one CSV per benchmark and machine, each row with its commit."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import subprocess
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

Row = dict[str, object]


def machine() -> str:
    """Processor kind and core count: what a row must be read with."""
    return f"{platform.system()}-{platform.machine()}-{os.cpu_count()}cores"


def append(name: str, rows: list[Row]) -> Path:
    """Add `rows`, stamped with date, commit and machine, to the file of benchmark `name`."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    ).stdout.strip()
    stamp: Row = {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "machine": machine(),
    }
    stamped = [stamp | row for row in rows]
    names = list(dict.fromkeys(key for row in stamped for key in row))
    file = RESULTS / f"{name}-{machine()}.csv"
    file.parent.mkdir(exist_ok=True)
    new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, names, restval="")
        if new:
            writer.writeheader()
        writer.writerows(stamped)
    return file
