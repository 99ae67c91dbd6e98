"""The log of long runs: one row for each kind of try, appended to `results/log.csv`."""

from __future__ import annotations

import csv
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from outlier_jupyter.system.provenance import machine_words

from .counts import Counts

RESULTS = Path(__file__).parent / "results"
LOG = RESULTS / "log.csv"
FINDS = RESULTS / "finds.csv"
COLUMNS = ("date", "commit", "machine", "subject", "unit", "seed", "seconds",
           "tried", "times", "failed", "note")  # fmt: skip
FIND_COLUMNS = ("date", "subject", "found", "test")

Row = dict[str, str]


def commit() -> str:
    """The commit that is checked out, with "+" if the package differs from it."""

    def git(*what: str) -> str:
        return subprocess.run(
            ["git", *what], cwd=RESULTS, capture_output=True, text=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", ":/outlier_jupyter")
    return git("rev-parse", "--short=8", "HEAD") + ("+" if changed else "")


def append(
    subject: str, unit: str, seed: int, seconds: float, counts: Counts, log: Path = LOG
) -> None:
    """Append the rows of one run, which took `seconds`."""
    common = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        "machine": machine_words(),
        "subject": subject,
        "unit": unit,
        "seed": str(seed),
        "seconds": f"{seconds:.0f}",
    }
    new = not log.exists()
    with log.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for tried, row in counts.rows.items():
            writer.writerow(
                common
                | {
                    "tried": tried,
                    "times": str(row.times),
                    "failed": str(row.failed),
                    "note": "; ".join(row.notes),
                }
            )


def read(file: Path) -> list[Row]:
    """A CSV file's rows; none if there is no file."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def newest(rows: list[Row]) -> list[Row]:
    """The rows of the last run of each subject and unit, in the log's order."""
    last: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        last[row["subject"], row["unit"]] = (row["date"], row["seed"])
    return [row for row in rows if last[row["subject"], row["unit"]] == (row["date"], row["seed"])]
