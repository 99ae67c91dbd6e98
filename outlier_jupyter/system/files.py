"""Files of the user: reads regular files only, and writes each file completely or not at all.

Opening a named pipe waits for a writer that never comes, and a device has no end. Data is written
to a new file in the same folder, made durable, and then takes the old file's name.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import OutlierError, place
from .interrupt import deferred

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
"""What a path may be instead of a file."""
REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "it is larger than a file may be here",
}
"""Reasons why a file is not written, in plainer words than the system's."""


class NotAFile(OSError):
    """The path is something other than a file."""


def regular(path: str | os.PathLike[str]) -> Path:
    """Return `path` if it is a regular file, a link to one, or nothing.

    Raises:
        NotAFile: it is anything else; opening it might wait for ever.
        OSError: access is denied.
    """
    at = Path(path)
    try:
        mode = at.stat().st_mode
    except FileNotFoundError:
        return at
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        raise NotAFile(errno.ESPIPE, f"it is {kind}, not a file", str(path))
    return at


def write(
    path: str | os.PathLike[str],
    data: str | bytes,
    failed: Callable[[str], OutlierError],
    what: str,
) -> Path:
    """Write all of `data` to `path`; on failure the old content stays.

    Links are followed. An existing file keeps its permissions and, where possible, its owner.

    Args:
        data: text is written as UTF-8.
        failed: makes the exception to raise from a sentence.
        what: the data's name in that sentence, such as "the chat".

    Returns:
        `path`.
    """
    whole = data.encode("utf-8", "replace") if isinstance(data, str) else data
    return write_by(path, lambda file: file.write(whole), failed, what)


def write_by(
    path: str | os.PathLike[str],
    write: Callable[[BinaryIO], object],
    failed: Callable[[str], OutlierError],
    what: str,
) -> Path:
    """As `write`, of data that a function writes to a file; it need not be in memory at once."""
    try:
        with deferred():
            _replace(regular(path), write)
    except (OSError, ValueError) as error:
        code = error.errno or 0 if isinstance(error, OSError) else 0
        reason = REASONS.get(code) or getattr(error, "strerror", None) or str(error)
        raise failed(
            f"{what} could not be written to {place(path)} ({reason}): nothing changed "
            "there; give a path that can be written, with room for it"
        ) from error
    return Path(path)


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    at = path.resolve()
    before = at.stat() if at.exists() else None
    if before is not None and not os.access(at, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(at))
    beside = at.parent / f".outlier-{secrets.token_hex(8)}~"
    try:
        with beside.open("xb") as file:
            if before is not None:
                with suppress(OSError):  # only root may give a file away
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(at)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # a file system may not be able to
        sync_folder(at.parent)


def sync_folder(folder: Path) -> None:
    """Make a new name in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
