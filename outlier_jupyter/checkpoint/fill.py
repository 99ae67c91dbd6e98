"""Fills memory from a file: continues short reads, and repeats those that the disk failed.

A disk on a network, or one that wakes up, may fail a read and make the next one. So a failed read
is repeated a bounded number of times, after short pauses; what it left in memory is read over. Each
repetition is counted, and the reader's note says how many there were.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence

from ..errors import ReadFailed
from .layout import ByteRange

PAUSES_S = (0.01, 0.1)
"""The pauses before a failed read is repeated: as many repetitions as there are pauses."""
TRANSIENT = frozenset(
    {errno.EIO, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.ENOMEM, errno.EBUSY,
     errno.ECONNRESET, getattr(errno, "EREMOTEIO", errno.EIO)}
)  # fmt: skip
"""Errors that may pass. Others, such as a stale file handle or an invalid argument, do not."""


class Repeats:
    """Counts the reads that were repeated; any thread may call it.

    Attributes:
        count: how many repetitions there were.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        """Count one more."""
        with self._lock:
            self.count += 1

    def words(self) -> str:
        """A remark for the user; "" if nothing was repeated."""
        if not self.count:
            return ""
        times = "once" if self.count == 1 else f"{self.count:,} times"
        return f"the disk failed and a read was repeated {times}: check the disk"


def fill(
    preadv: Callable[[list[memoryview], int], int],
    descriptor: int,
    where: ByteRange,
    into: Sequence[memoryview],
    repeats: Repeats,
    needed: int | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Call `preadv` until `needed` bytes (default: all) are read into the views.

    Args:
        preadv: as `os.preadv`, of the open file `descriptor`.
        where: the range to read.
        repeats: counts the repetitions.
        pause: waits so many seconds.

    Raises:
        ReadFailed: the disk failed for good, or the file ends before the range does.
    """
    needed = where.nbytes if needed is None else needed
    left = [view for view in into if len(view)]
    done = tries = 0
    while done < needed:
        try:
            count = preadv(left, where.offset + done)
            if count == 0 and where.offset + done < os.fstat(descriptor).st_size:
                raise OSError(errno.EIO, "the disk gave no bytes where the file has some")
        except OSError as error:
            if error.errno in TRANSIENT and tries < len(PAUSES_S):
                repeats.add()
                pause(PAUSES_S[tries])
                tries += 1
                continue
            raise ReadFailed(
                f"reading {where.nbytes} bytes at {where.offset} of {where.file} failed: "
                f"{error.strerror or error}; check the disk and run again"
            ) from error
        if count == 0:
            raise ReadFailed(
                f"{where.file} ends at byte {where.offset + done}, {needed - done} bytes before an "
                "expert does: the file was cut after the model was loaded; restore it"
            )
        done += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]
