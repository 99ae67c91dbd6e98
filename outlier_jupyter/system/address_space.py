"""The address space that this process may still take, by `ulimit -v` and `ulimit -d`.

Libraries do not bear its end: a library of Numba's that cannot be mapped is waited for, for ever,
and LLVM, MLX and tokenizers end the process. So it is looked at before they are loaded.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import NamedTuple

from ..errors import OptionError

STATUS = Path("/proc/self/status")
"""Where Linux says what the process takes."""
LIBRARIES_NBYTES = 400_000_000
"""What MLX, mlx-lm and transformers take of it when they are imported: 405 MB were measured."""
LOADED_NBYTES = 1_500_000_000
"""What a small model takes beyond that, loaded and run: 830 MB were measured, 430 of them Numba and
LLVM, on two cores; each further thread's stack and heap take more."""
DATA_SHARE = 0.5
"""The share of it that counts for `ulimit -d`: private memory that can be written."""


class Room(NamedTuple):
    """A limit of the process, in bytes.

    Attributes:
        limit: the most that it may take.
        free: what it may still take.
        option: the limit's flag of `ulimit`.
    """

    limit: int
    free: int
    option: str


def rooms(status: Path = STATUS) -> list[Room]:
    """What the limits leave; an empty list where the system has none."""
    if not sys.platform.startswith("linux"):  # elsewhere they are not enforced
        return []
    try:
        rows = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        used = {name: 1024 * int(rows[name].split()[0]) for name in ("VmSize", "VmData")}
    except (OSError, KeyError, ValueError):
        return []
    found = []
    for kind, name, option in ((resource.RLIMIT_AS, "VmSize", "-v"),
                               (resource.RLIMIT_DATA, "VmData", "-d")):  # fmt: skip
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            found.append(Room(limit, max(0, limit - used[name]), option))
    return found


def check_room(nbytes: int) -> None:
    """Raises OptionError: the process's limits leave less than `nbytes` of address space."""
    for room in rooms():
        needed = nbytes if room.option == "-v" else int(DATA_SHARE * nbytes)
        if room.free < needed:
            raise OptionError(
                f"ulimit {room.option} leaves this process {room.free / 1e6:,.0f} MB of address "
                f"space, and to load a model takes {needed / 1e6:,.0f} MB at least: raise that "
                "limit (it counts far more than RAM), and bound the RAM with ram_gb"
            )
