"""Memory limits for processes: a control group (version 1 or 2), where this machine permits one.

Also sets the read-ahead of a disk, which decides how fast a memory-mapped model runs under a limit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
NAME = f"outlier-bench-{os.getpid()}"
ENTER = 'echo $$ > "$0" && exec "$@"'


def group_file(root: Path = ROOT) -> tuple[Path, str]:
    """The folder for our group, and the name of the file that takes its limit."""
    if (root / "cgroup.controllers").exists():
        return root / NAME, "memory.max"
    return root / "memory" / NAME, "memory.limit_in_bytes"


@contextmanager
def limited(nbytes: int, root: Path = ROOT) -> Iterator[tuple[str, ...] | None]:
    """Yield the prefix of a command that limits it and its page cache to so many bytes.

    None where no group can be made. The group is removed at the end.
    """
    folder, name = group_file(root)
    try:
        folder.mkdir()
    except OSError:
        yield None
        return
    try:
        (folder / name).write_text(str(nbytes))
        yield ("sh", "-c", ENTER, str(folder / "cgroup.procs"))
    except OSError:
        yield None
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(50):  # its last process may not be gone yet
        try:
            folder.rmdir()
            return
        except OSError:
            time.sleep(0.1)


@contextmanager
def read_ahead(file: Path, kilobytes: int) -> Iterator[int]:
    """Set the read-ahead of `file`'s disk; yields the value in force, and restores the old one."""
    device = file.stat().st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        before = knob.read_text()
        knob.write_text(str(kilobytes))
    except OSError:
        yield int(knob.read_text()) if knob.exists() else 0
        return
    try:
        yield kilobytes
    finally:
        knob.write_text(before)
