"""What a trace says of where it comes from: the checkpoint, the machine, the versions.

Nothing is read from disk but what the operating system tells of itself, and no name of a host or
a user is taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..formatting import size_words
from .memory_info import machine_memory

PACKAGES = ("outlier-jupyter", "mlx", "mlx-lm", "numpy", "numba")


def fingerprint(config: Mapping[str, object], spans: Mapping[str, object]) -> str:
    """Sixteen hex digits that tell one checkpoint from another without reading its weights.

    They are a SHA-256 of its config, and of the names, types, shapes and places of its tensors
    (`spans`, by their `repr`, folders left out): a model that was moved is still the same, one
    that was quantised otherwise is not. Weights that were changed in place are not noticed.
    """
    places = sorted(f"{name} {_nameless(span)}" for name, span in spans.items())
    text = json.dumps([config, places], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _nameless(span: object) -> str:
    dtype, shape, where = (getattr(span, name) for name in ("dtype", "shape", "bytes"))
    return f"{dtype} {shape} {Path(where.file).name} {where.offset} {where.nbytes}"


def machine_words(kernels: str = "") -> str:
    """System, processor, cores and RAM, in a line.

    Args:
        kernels: what of the processor compiled kernels use; "" where others compute.
    """
    cores = os.cpu_count() or 0
    used = f" ({kernels})" if kernels else ""
    return (
        f"{platform.system()} {platform.machine()}, {processor_name()}{used}, {cores} cores, "
        f"{size_words(machine_memory().total)} of RAM"
    )


def processor_name() -> str:
    """The processor as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or "processor not named"


def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide what a run does."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
