"""Stores benchmark rows: one CSV per benchmark and processor, each row with its commit."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import subprocess
from pathlib import Path

from outlier_jupyter.cpu.kernels.processor import VECTORS, cpu_name
from outlier_jupyter.system.provenance import processor_name

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

OWN = ("benchmarks/results", "README.md", "docs")
"""Paths that a benchmark changes itself."""

Row = dict[str, object]


Processor = tuple[str, str]
"""Its name, and the instructions that the kernels use: a row means nothing without both."""

UNKNOWN = "not recorded"


def processor() -> Processor:
    """This one: `AMD EPYC (znver4)` and `AVX-512, AVX2, F16C`."""
    return f"{processor_name()} ({cpu_name()})", VECTORS


def machine() -> str:
    """System, processor and core count, as in a file's name."""
    names = "-".join(VECTORS.replace("-", "").split(", ")).replace(" ", "")
    return f"{platform.system()}-{platform.machine()}-{os.cpu_count()}cores-{cpu_name()}-{names}"


def commit() -> str:
    """The measured commit, marked if the code differs from it; rows and README may differ."""
    asked = ("describe", "--always"), ("status", "--porcelain", "--", ".", *(f":!{p}" for p in OWN))
    name, changed = (
        subprocess.run(
            ["git", *words], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.strip()
        for words in asked
    )
    return f"{name}-dirty" if changed else name


def append(name: str, rows: list[Row]) -> Path:
    """Add `rows` to the file of benchmark `name` on this processor.

    Each gets the date, commit, machine, processor and the instructions that the kernels use.
    """
    name_of_it, vectors = processor()
    stamp: Row = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "processor": name_of_it,
        "vectors": vectors,
    }
    stamped = [stamp | row for row in rows]
    file = RESULTS / f"{name}-{machine()}.csv"
    file.parent.mkdir(exist_ok=True)
    write(file, [*read(file), *stamped])
    return file


def all_rows(name: str) -> list[Row]:
    """The rows of a benchmark, of all machines."""
    return [row for file in sorted(RESULTS.glob(f"{name}-*.csv")) for row in read(file)]


def read(file: Path) -> list[Row]:
    """The rows of a file, every value as text; none if there is no file."""
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return [dict(row) for row in csv.DictReader(stream)]


def write(file: Path, rows: list[Row]) -> None:
    """Rewrite a file with all columns; a later column is empty in earlier rows."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
