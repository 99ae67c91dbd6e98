"""Detects files that changed since they were opened; checked before, during and after a run.

A file that is written to while it is read gives wrong weights without an error. Its inode, length
and modification time show that; a check takes a microsecond per file. An open file that was
removed, renamed or replaced is still read as it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import place


class Identity(NamedTuple):
    """Distinguishes a file from others, and from itself before it was written to."""

    device: int
    inode: int
    nbytes: int
    written_ns: int


def identity(descriptor: int) -> Identity:
    """The identity of an open file now."""
    stat = os.fstat(descriptor)
    return Identity(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def changed(descriptors: Mapping[Path, int], before: Mapping[Path, Identity]) -> str:
    """A sentence on which file differs from `before`, and how; "" if none does."""
    for file, descriptor in descriptors.items():
        was, now = before[file], identity(descriptor)
        if was == now:
            continue
        if was[:2] != now[:2]:
            return f"{place(file)} was replaced while the model was loaded"
        if was.nbytes != now.nbytes:
            sizes = f"{was.nbytes:,} bytes and has {now.nbytes:,} now"
            return f"{place(file)} changed after the model was loaded (it had {sizes})"
        return f"{place(file)} was written to after the model was loaded"
    return ""


def replaced(descriptors: Mapping[Path, int]) -> str:
    """A sentence on which open file is no longer the one at its path; "" if all are.

    The open one is still read, as it was.
    """
    for file, descriptor in descriptors.items():
        opened = os.fstat(descriptor)
        try:
            there = file.stat()
        except FileNotFoundError:
            return f"{place(file)} was removed since; the removed file is still read"
        except OSError:  # another reason than its absence says nothing of the open file
            continue
        if (there.st_dev, there.st_ino) != (opened.st_dev, opened.st_ino):
            return f"{place(file)} was replaced since; the file that was loaded is still read"
    return ""
