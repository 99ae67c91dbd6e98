"""How fast a machine is, and how long a token takes by that; the speeds last measured are kept.

A decoded token takes

    TURNS ÷ Python's speed + COMPUTE × (bytes multiplied ÷ memory's speed)
    + WAIT_S × (layers that wait for reads) + READ × (bytes read ÷ disk's speed)

The factors were set by hand so that six pairs of model and cache fit, on two processors
(`benchmarks/forecasting.py`): they are no law. MLX's kernels were not measured. The speeds stand in
one small file in the user's cache folder; `engine/measure_speed` measures them.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_cache_path

from ..errors import OptionError, OutlierError
from ..formatting import size_words, three
from ..values import rate
from . import files

TURNS = 24_000
"""Turns of a Python loop that take as long as a token outside its layers: Python, MLX, sampling."""
WAIT_S = 1e-4
"""Of a layer that waits: the time until its first byte."""
COMPUTE, READ = 1.35, 1.15
"""Times the bytes' own time: what kernels and reads take beside moving bytes."""


@dataclass(frozen=True)
class MachineSpeed:
    """What a machine does in a second.

    Attributes:
        memory: bytes read from memory by all cores.
        disk: bytes of whole experts read past the page cache.
        products: multiplications of float32 matrices by NumPy.
        loops: turns of a short loop in Python.
        measured: the day, as 2026-01-31.

    Raises:
        OptionError: one of the four is no positive number.
    """

    memory: float
    disk: float
    products: float
    loops: float
    measured: str

    def __post_init__(self) -> None:
        for name in ("memory", "disk", "products", "loops"):
            rate(name, getattr(self, name))

    @property
    def overhead_s(self) -> float:
        """Seconds of a token outside its layers."""
        return TURNS / self.loops

    def multiply_s(self, nbytes: float) -> float:
        """Seconds in which compiled CPU kernels multiply weights of so many bytes by a token."""
        return COMPUTE * nbytes / self.memory

    def read_s(self, nbytes: float) -> float:
        """Seconds in which so many bytes of experts are read."""
        return READ * nbytes / self.disk

    def words(self) -> str:
        """The speeds in words."""
        return (
            f"memory {size_words(self.memory)}/s, disk {size_words(self.disk)}/s, "
            f"{three(self.products / 1e9)} billion products/s, {three(self.loops / 1e6)} million "
            f"turns of a Python loop/s (measured on {self.measured})"
        )


def kept_speed() -> MachineSpeed | None:
    """What was measured last on this machine; None if nothing was, or its file is damaged."""
    try:
        return MachineSpeed(**json.loads(speed_file().read_text()))
    except (OSError, ValueError, TypeError, OptionError):
        return None


def keep_speed(speed: MachineSpeed) -> None:
    """Keep what was measured for later forecasts; where that fails, it is measured again."""
    with suppress(OSError, OutlierError):
        speed_file().parent.mkdir(parents=True, exist_ok=True)
        files.write(speed_file(), json.dumps(asdict(speed)), OutlierError, "the machine's speed")


def speed_file() -> Path:
    """Where the speeds are kept."""
    return Path(user_cache_path("outlier_jupyter")) / "machine.json"
