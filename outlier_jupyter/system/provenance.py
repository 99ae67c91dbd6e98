"""The provenance of a trace: checkpoint, machine and versions.

Only the operating system's description of itself is read, and no name of a host or user is kept.
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
    """Sixteen hex digits that identify a checkpoint without its weights.

    They are a SHA-256 of its config, and of the names, types, shapes and byte ranges of its tensors
    (`spans`, without folders): a moved model is still the same, a differently quantised one is not.
    Weights that were changed in place are not noticed.
    """
    places = sorted(f"{name} {_nameless(span)}" for name, span in spans.items())
    text = json.dumps([config, places], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _nameless(span: object) -> str:
    dtype, shape, where = (getattr(span, name) for name in ("dtype", "shape", "bytes"))
    return f"{dtype} {shape} {Path(where.file).name} {where.offset} {where.nbytes}"


def machine_words(kernels: str = "") -> str:
    """System, processor, cores and RAM, in one line.

    Args:
        kernels: the instruction set that compiled kernels use; "" if MLX computes.
    """
    cores = os.cpu_count() or 0
    used = f" ({kernels})" if kernels else ""
    return (
        f"{platform.system()} {platform.machine()}, {processor_name()}{used}, {cores} cores, "
        f"{size_words(machine_memory().total)} of RAM"
    )


def processor_name() -> str:
    """The processor's name in the operating system."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or "processor not named"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that determine a run."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
