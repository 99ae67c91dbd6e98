"""`%outlier bench`: what this machine can do."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...benchmark.short import Benched, short
from ...engine.repack import measure_disk
from ...errors import OptionError
from ...formatting import size_words
from ...system.memory_info import measure_memory
from .command import Command, Session
from .parsing import add_output


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="with --disk, whose files are read; the loaded")
    parser.add_argument("--folder", help="where the slice is made and kept; the cache folder")
    parser.add_argument(
        "--traces", metavar="FOLDER",
        help="recorded traces (.safetensors) to take routing from; else the demo model's",
    )  # fmt: skip
    add_output(parser, "table")
    parser.add_argument(
        "--disk", action="store_true", default=None,
        help="read places of the model's files for two seconds, in every way there is",
    )  # fmt: skip
    parser.add_argument(
        "--memory", action="store_true", default=None,
        help="read memory with all cores for half a second; explanations of later runs know it",
    )  # fmt: skip


def _run(session: Session, given: dict[str, Any]) -> Benched | None:
    if given.get("memory"):
        session.write(f"memory reads at {size_words(measure_memory())}/s\n")
        if not given.get("disk"):
            return None
    if given.get("disk"):
        model = given.get("model") or session.loaded().info.model
        session.write(f"{measure_disk(model)}\n")
        return None
    if "model" in given:
        raise OptionError(
            "%outlier bench makes a model of its own: leave the model out, or give --disk"
        )
    folder, traces = (Path(given[n]) if n in given else None for n in ("folder", "traces"))
    return short(folder, traces, tell=lambda line: session.write(f"{line}\n"))


COMMAND = Command(
    "bench",
    "measure this machine, in minutes; --disk, --memory: how fast they can be read",
    _run,
    _arguments,
    "Measure this machine: a slice of Qwen3-30B-A3B's geometry with random weights, paged and by "
    "mlx-lm, beside the limit of the hardware. Takes 3 GB of disk.",
    call="`outlier_jupyter.benchmark.short.short()`, "
    "`outlier_jupyter.engine.repack.measure_disk(model)`, "
    "`outlier_jupyter.system.memory_info.measure_memory()`",
    terminal=True,
)
