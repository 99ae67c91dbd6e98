"""`%outlier bench`: measure this machine."""

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
    parser.add_argument(
        "model",
        nargs="?",
        help="with --disk: whose files to read (default: the loaded model)",
    )
    parser.add_argument(
        "--folder", help="where to store the model slice (default: the cache folder)"
    )
    parser.add_argument(
        "--traces", metavar="FOLDER",
        help="recorded traces (.safetensors) to take routing from (default: the demo model's)",
    )  # fmt: skip
    add_output(parser, "table")
    parser.add_argument(
        "--disk", action="store_true", default=None,
        help="measure the disk: read the model's files for two seconds with each reader",
    )  # fmt: skip
    parser.add_argument(
        "--memory", action="store_true", default=None,
        help="measure memory bandwidth for half a second, for `explain` of later runs",
    )  # fmt: skip


def _run(session: Session, args: dict[str, Any]) -> Benched | None:
    if args.get("memory"):
        session.write(f"memory reads at {size_words(measure_memory())}/s\n")
        if not args.get("disk"):
            return None
    if args.get("disk"):
        model = args.get("model") or session.loaded().info.model
        session.write(f"{measure_disk(model)}\n")
        return None
    if "model" in args:
        raise OptionError(
            "%outlier bench generates its own model: leave the model out, or give --disk"
        )
    folder, traces = (Path(args[n]) if n in args else None for n in ("folder", "traces"))
    return short(folder, traces, report=lambda line: session.write(f"{line}\n"))


COMMAND = Command(
    "bench",
    "measure this machine in a few minutes, or only its --disk or --memory",
    _run,
    _arguments,
    "Measure this machine: decode a slice of Qwen3-30B-A3B's geometry with random weights, paged "
    "and with mlx-lm, and compare with the limit of the hardware. Needs 3 GB of disk.",
    call="`outlier_jupyter.benchmark.short.short()`, "
    "`outlier_jupyter.engine.repack.measure_disk(model)`, "
    "`outlier_jupyter.system.memory_info.measure_memory()`",
    terminal=True,
    group="start",
)
