"""Readers: positional reads of byte ranges into the caller's memory. All weights are read here.

Three readers share one interface. All may be called from many threads at once, and none holds the
interpreter's lock while the disk works. They do not know what the bytes mean.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from io import FileIO
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ..errors import ReadFailed
from ..system.files import regular
from ..system.huge_pages import buffer
from ..system.memory_info import mapped_nbytes
from .file_identity import Identity, changed, identity, replaced
from .fill import Repeats, fill
from .layout import ByteRange
from .mapped_file import MappedFile, Unguarded

PAGE = 4096
"""O_DIRECT needs offset, length and address in multiples of a device block; 4 KiB fits all."""
SECTOR = 512
"""The smallest block; most devices accept it, and `DirectReader` tries."""
F_NOCACHE = 48
"""macOS's fcntl command to keep a file's reads out of the page cache (<sys/fcntl.h>)."""


class KernelReadable(NamedTuple):
    """A file that the kernel's queue may read, into memory aligned to `block`.

    Past the page cache it reads asynchronously; else during the submission, at once if the bytes
    are there, which pays for small experts.

    Attributes:
        checksum: the CRC-32 that the bytes must have; -1 if that has been checked, or is not known.
    """

    descriptor: int
    block: int
    checksum: int = -1


class Reader(Protocol):
    """Reads a range into a view of the same length.

    Attributes:
        name: how the reads are really made: `pread`, `direct` or `mmap`.
        note: a remark for the user, such as why it is not the requested reader, or that reads had
            to be repeated; or "".
    """

    name: str
    note: str

    def read(self, where: ByteRange, into: memoryview) -> None:
        """Fill `into` with the bytes at `where`.

        Raises:
            ReadFailed: the system failed the read, or the file ends before the range does.
        """

    def scatter(self, where: ByteRange, into: Sequence[memoryview]) -> None:
        """Fill the views, together as long as `where`, one after the other with its bytes.

        Raises:
            ReadFailed: as `read`.
        """

    def kernel_readable(self, where: ByteRange) -> KernelReadable | None:
        """How the kernel may read this range asynchronously; None where only this reader may."""

    def changed(self, before: Mapping[Path, Identity] | None = None) -> str:
        """A sentence on which file was written to since it was opened; "" if none was.

        The answer stays for good: weights read in between may be wrong.

        Args:
            before: the identities of files that were looked at before they were opened here.
        """

    def buffer_nbytes(self) -> int:
        """Bytes of memory that the reader needs beside the caller's."""

    def close(self) -> None:
        """Close every file. Reads under way must have ended."""


class PreadReader:
    """Plain positional reads, through the page cache."""

    name = "pread"

    def __init__(self, files: Iterable[Path], flags: int = 0, note: str = "") -> None:
        self._note = note
        self._repeats = Repeats()
        # The objects own the descriptors: without references they are closed.
        self._files: list[FileIO] = []
        self._descriptors: dict[Path, int] = {}
        self._identities: dict[Path, Identity] = {}
        self._changed = ""
        try:
            for file in files:
                opened = FileIO(
                    regular(file), opener=lambda path, mode: os.open(path, mode | flags)
                )
                self._files.append(opened)
                self._descriptors[file] = opened.fileno()
                self._identities[file] = identity(opened.fileno())
        except BaseException:
            self.close()
            raise

    @property
    def note(self) -> str:
        """The remark; it grows when the disk fails or a file is replaced."""
        found = (self._note, self._repeats.words(), replaced(self._descriptors))
        return "; ".join(filter(None, found))

    @note.setter
    def note(self, note: str) -> None:
        """Set what it begins with."""
        self._note = note

    def read(self, where: ByteRange, into: memoryview) -> None:
        self._fill(where, [into])

    def scatter(self, where: ByteRange, into: Sequence[memoryview]) -> None:
        self._fill(where, into)

    def kernel_readable(self, where: ByteRange) -> KernelReadable | None:
        # Through the page cache the kernel reads during the submission.
        return KernelReadable(self._descriptors[where.file], 1)

    def changed(self, before: Mapping[Path, Identity] | None = None) -> str:
        known = self._identities | dict(before) if before else self._identities
        self._changed = self._changed or changed(self._descriptors, known)
        return self._changed

    def buffer_nbytes(self) -> int:
        return 0

    def close(self) -> None:
        self._descriptors.clear()
        for file in self._files:
            file.close()
        self._files.clear()

    def _fill(
        self, where: ByteRange, into: Sequence[memoryview], needed: int | None = None
    ) -> None:
        """Read until `needed` bytes (default: all) have come."""
        descriptor = self._descriptors[where.file]
        fill(partial(os.preadv, descriptor), descriptor, where, into, self._repeats, needed)


class DirectReader(PreadReader):
    """Reads past the page cache: the time of a read is the disk's.

    On Linux O_DIRECT takes only aligned ranges and memory. Other ranges are read with their aligned
    surroundings into a buffer of the thread, and copied. macOS (F_NOCACHE) needs no alignment; that
    path is untested.
    """

    name = "direct"

    def __init__(self, files: Iterable[Path]) -> None:
        self._buffers = threading.local()
        self._lengths: dict[int, int] = {}
        super().__init__(files, getattr(os, "O_DIRECT", 0))
        self._aligned_only = hasattr(os, "O_DIRECT")
        self._block = PAGE
        if sys.platform == "darwin":
            for descriptor in self._descriptors.values():
                fcntl.fcntl(descriptor, F_NOCACHE, 1)

    def probe_sectors(self) -> None:
        """Use blocks smaller than pages if every file accepts them."""
        memory = memoryview(mmap.mmap(-1, PAGE))[SECTOR : 2 * SECTOR]
        try:
            for descriptor in self._descriptors.values():
                os.preadv(descriptor, [memory], SECTOR)
        except OSError:
            return
        self._block = SECTOR

    def read(self, where: ByteRange, into: memoryview) -> None:
        if not self._aligned_only or self._aligned(where.offset, into):
            super().read(where, into)
            return
        begin = where.offset - where.offset % PAGE
        end = -(-(where.offset + where.nbytes) // PAGE) * PAGE
        buffer = self._buffer(end - begin)
        first = where.offset - begin
        surroundings = ByteRange(where.file, begin, end - begin)
        self._fill(surroundings, [buffer], first + where.nbytes)
        _copy(buffer[first:], [into])

    def scatter(self, where: ByteRange, into: Sequence[memoryview]) -> None:
        """Read with one call: the leading aligned views directly, the others through a buffer."""
        if not self._aligned_only:
            super().scatter(where, into)
            return
        begin, aligned = where.offset, 0
        while aligned < len(into) and self._aligned(begin, into[aligned]):
            begin += len(into[aligned])
            aligned += 1
        if begin % self._block:  # no aligned place to begin at
            for view in into:
                self.read(ByteRange(where.file, begin, len(view)), view)
                begin += len(view)
            return
        rest = where.offset + where.nbytes - begin
        buffer = self._buffer(-(-rest // self._block) * self._block) if rest else memoryview(b"")
        self._fill(where, [*into[:aligned], buffer], where.nbytes)
        _copy(buffer, into[aligned:])

    def kernel_readable(self, where: ByteRange) -> KernelReadable | None:
        if not self._aligned_only or where.offset % self._block or where.nbytes % self._block:
            return None
        return KernelReadable(self._descriptors[where.file], self._block)

    def _aligned(self, offset: int, view: memoryview) -> bool:
        block = self._block
        if offset % block or len(view) % block:
            return False
        return int(np.frombuffer(view, np.uint8).ctypes.data) % block == 0

    def buffer_nbytes(self) -> int:
        return sum(self._lengths.values())

    def close(self) -> None:
        super().close()
        self._buffers = threading.local()
        self._lengths.clear()

    def _buffer(self, nbytes: int) -> memoryview:
        """Page-aligned memory of this thread, `nbytes` long, kept for its next read."""
        memory: memoryview | None = getattr(self._buffers, "memory", None)
        if memory is None or len(memory) < nbytes:
            memory = self._buffers.memory = buffer(nbytes)
            self._lengths[threading.get_ident()] = nbytes
        return memory[:nbytes]


class MmapReader(PreadReader):
    """Copies out of a memory map: each first touch is a page fault. Kept for comparison.

    Raises:
        Unguarded: a map cannot be copied from without the risk of SIGBUS or of zeros.
    """

    name = "mmap"

    def __init__(self, files: Iterable[Path]) -> None:
        self._maps: dict[Path, MappedFile] = {}
        super().__init__(files)
        try:
            for file, descriptor in self._descriptors.items():
                self._maps[file] = MappedFile(descriptor)
        except BaseException:
            self.close()
            raise

    def kernel_readable(self, where: ByteRange) -> KernelReadable | None:
        return None

    def buffer_nbytes(self) -> int:
        return mapped_nbytes(list(self._maps))

    def close(self) -> None:
        for mapped in self._maps.values():
            mapped.close()
        self._maps.clear()
        super().close()

    def _fill(
        self, where: ByteRange, into: Sequence[memoryview], needed: int | None = None
    ) -> None:
        descriptor = self._descriptors[where.file]
        fill(self._maps[where.file].preadv, descriptor, where, into, self._repeats, needed)


def open_reader(kind: str, files: Iterable[Path]) -> Reader:
    """Open `files` with the reader named `kind`: pread, direct or mmap.

    Where the file system refuses direct reads, this returns a pread reader whose `note` says so.

    Raises:
        ReadFailed: a file cannot be opened.
    """
    files = list(files)
    makers: dict[str, Callable[[list[Path]], Reader]] = {
        "pread": PreadReader, "direct": _direct_or_pread, "mmap": _mmap_or_pread
    }  # fmt: skip
    try:
        return makers[kind](files)
    except OSError as error:
        raise ReadFailed(
            f"{error.filename or files[0]} cannot be opened: {error.strerror or error}"
        ) from error
    except ValueError as error:  # from mmap
        raise ReadFailed(f"{files[0]}, or one beside it, is empty: restore it") from error


def _direct_or_pread(files: list[Path]) -> Reader:
    try:
        reader = DirectReader(files)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return _refused(files, "opening")
    try:
        # Some file systems take the flag when opening and refuse the read.
        reader.read(ByteRange(files[0], 0, PAGE // 2), memoryview(bytearray(PAGE // 2)))
        reader.probe_sectors()
    except ReadFailed as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EINVAL:
            return reader  # a file shorter than a page, for example: no refusal
        reader.close()
        return _refused(files, "reading")
    except BaseException:
        reader.close()
        raise
    return reader


def _mmap_or_pread(files: list[Path]) -> Reader:
    try:
        return MmapReader(files)
    except Unguarded as why:
        return PreadReader(files, note=f"{why}; files are read instead")


def _refused(files: list[Path], when: str) -> Reader:
    return PreadReader(
        files,
        note=f"the file system refused direct reads ({when}); reads go through the page cache",
    )


def _copy(source: memoryview, into: Sequence[memoryview]) -> None:
    """Fill the views one after the other; NumPy releases the interpreter's lock meanwhile."""
    found = np.frombuffer(source, np.uint8) if len(source) else np.empty(0, np.uint8)
    begin = 0
    for view in into:
        if len(view):
            np.copyto(np.frombuffer(view, np.uint8), found[begin : begin + len(view)])
        begin += len(view)
