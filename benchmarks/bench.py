"""The benchmark: random weights of published geometries, real routing, speeds beside their limits.

    python -m benchmarks.bench [--short] [--folder …] [--traces …] [--only sizes,features,…]

Makes its models in a folder of its own (kept and reused), runs the subjects of each comparison
interleaved in one process, and appends a row per subject to `prompts-<machine>.csv` and
`decode-<machine>.csv` in `benchmarks/results/`. `python -m benchmarks.report` draws figure and
tables from them.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import sections
from benchmarks.results import ROOT, Row, append
from outlier_jupyter.benchmark.models import default_folder, find_source, make
from outlier_jupyter.benchmark.routing import Source
from outlier_jupyter.benchmark.short import LAYERS, about, compare

TRACES = ROOT.parent / "shared" / "traces"
IN_RAM = 12
"""Layers of the slice that is in RAM three times, ours and mlx-lm's two; all 48 do not fit."""
BUSY = 0.05
"""From this share of CPU time taken by other processes on, a machine counts as busy."""


@dataclass(frozen=True)
class Asked:
    """The command line's options."""

    folder: Path
    source: Source
    rounds: int
    layers: int | None
    distinct: int


def short(asked: Asked) -> list[Row]:
    """The short form, as `%outlier bench` runs it."""
    made = make("30b", asked.folder, asked.source, layers=asked.layers or LAYERS, distinct=None,
                report=say)  # fmt: skip
    say(about(made))
    return compare(made, asked.rounds, 48, say)


def whole(asked: Asked) -> sections.Made:
    """Qwen3-30B-A3B's geometry."""
    return make("30b", asked.folder, asked.source, layers=asked.layers, report=say)


def huge(asked: Asked) -> sections.Made:
    """Qwen3.5-397B-A17B's geometry, with its layers aliased onto those few that fit on the disk."""
    return make("397b", asked.folder, asked.source, layers=asked.layers, distinct=asked.distinct,
                repacked=False, report=say)  # fmt: skip


def slice_of(asked: Asked, layers: int = LAYERS, repacked: bool = True) -> sections.Made:
    """Some layers of Qwen3-30B-A3B's geometry."""
    return make("30b", asked.folder, asked.source, layers=layers, distinct=None,
                repacked=repacked, report=say)  # fmt: skip


PARTS: dict[str, Callable[[Asked], list[Row]]] = {
    "unpaged": lambda asked: sections.in_ram(
        slice_of(asked, IN_RAM, repacked=False), min(asked.rounds, 2), say
    ),
    "prompts": lambda asked: sections.prompts(slice_of(asked), asked.rounds, (32, 512), say),
    "long": lambda asked: sections.prompts(slice_of(asked), 1, (4096,), say),
    "sizes": lambda asked: sections.sizes(whole(asked), min(asked.rounds, 2), say),
    "features": lambda asked: sections.features(whole(asked), min(asked.rounds, 2), say),
    "resident": lambda asked: sections.resident_set(whole(asked), 1, say),
    "huge": lambda asked: sections.huge(huge(asked), min(asked.rounds, 2), say),
    "recording": lambda asked: sections.recording(whole(asked), say),
}
"""The parts of the long form, in their order."""
FILES = {"prompts": "prompts", "long": "prompts", "recording": "recording"}
"""Parts whose rows have a file of their own; the others are about decode."""
START = time.monotonic()


class Others:
    """Measures the share of CPU time that other processes take, from its creation on."""

    def __init__(self) -> None:
        self._wall, self._all, self._own = time.monotonic(), _all_cpu_s(), _own_cpu_s()

    def share(self) -> float:
        """The share of all processors' time, 0 to 1."""
        wall = time.monotonic() - self._wall
        taken = (_all_cpu_s() - self._all) - (_own_cpu_s() - self._own)
        return max(0.0, taken / wall / (os.cpu_count() or 1))


def _all_cpu_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0))


def _own_cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def say(line: object) -> None:
    """Print a line with the time since the start."""
    sys.stdout.write(f"[{time.monotonic() - START:5.0f} s] {line}\n")
    sys.stdout.flush()


def told(row: Row) -> str:
    """A row's main columns as one line of text."""
    keys = ("subject", "prompt", "tokens_per_s", "hit_rate", "times_limit", "prompt_s", "rss_gb",
            "read_mb_per_s", "memory_gb_per_s", "disk_mb_per_s", "cost")  # fmt: skip
    return ", ".join(f"{key} {row[key]}" for key in keys if row.get(key) not in (None, ""))


def main() -> int:
    """Run the parts that the command line selects."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a slice, in under five minutes")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="for the models")
    parser.add_argument("--traces", type=Path, default=TRACES, help="a folder of recorded traces")
    parser.add_argument("--only", default="", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, help="fewer than the geometries have")
    parser.add_argument("--distinct", type=int, default=4, help="layers of the 397B with own bytes")
    args = parser.parse_args()
    source = find_source(args.traces if args.traces.is_dir() else None, say)
    asked = Asked(args.folder, source, args.rounds, args.layers, args.distinct)
    wanted = [name for name in args.only.split(",") if name] or list(PARTS)
    parts = {"short": short} if args.short else {name: PARTS[name] for name in wanted}
    for name, part in parts.items():
        say(f"{name}: begins")
        others = Others()
        rows = part(asked)
        share = others.share()
        stamp = {"others_cpu": round(share, 3), "busy": "yes" if share > BUSY else "no"}
        rows = [{"part": name, **row, **stamp} for row in rows]
        for row in rows:
            say(told(row))
        append(FILES.get(name, "decode"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
