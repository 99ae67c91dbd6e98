"""A file system that fails on command: a folder, mounted through Linux's FUSE, without a library.

    with faulty_disk(folder, to) as disk:      # `to` shows the files of `folder`
        disk.fail("error", every=3)            # every third read is EIO

Its reads are the kernel's: `pread`, direct and asynchronous reads and memory maps see what a real
disk's failure shows them. The server is a process of its own, for this one may wait for it with the
interpreter's lock. It ends with its pipe, and needs root and /dev/fuse.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH = 1, 2, 3, 14, 15, 17, 18, 25
INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 26, 27, 28, 29, 36, 38, 42
NO_REPLY = (FORGET, INTERRUPT, BATCH_FORGET)
HEADER, REPLY = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
READ_IN, ATTRIBUTES = struct.Struct("<QQI"), struct.Struct("<QQQQQQIIIIIIIIII")
FLAGS = 1 << 0 | 1 << 15 | 1 << 22
"""FUSE_ASYNC_READ, FUSE_ASYNC_DIO, FUSE_MAX_PAGES."""
MOST = 1 << 20
"""Bytes of a request."""
KINDS = ("none", "error", "slow", "short", "changed")
"""What may be wrong: nothing; EIO; a pause of 20 ms; half of the bytes; other bytes, and a new time
of writing."""


class Unavailable(Exception):
    """This machine has no such file systems, or permits none."""


class Disk:
    """A mounted faulty disk.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path, server: subprocess.Popen[str]) -> None:
        self.folder, self._server = folder, server

    def fail(self, kind: str, every: int = 1, most: int = 1 << 60) -> None:
        """Fail each `every`th read from now on, at most `most` of them."""
        self._ask(f"{kind} {every} {most}")

    def uncached(self, wanted: bool) -> None:
        """Whether files that are opened from now on are read past the page cache.

        A short answer is then a short read. In the page cache the kernel has zeros in place of the
        rest, as its contract with file systems says, and no reader could know of them.
        """
        self._ask(f"uncached {int(wanted)} 0")

    def heal(self) -> None:
        """Fail no more."""
        self._ask("none 1 0")

    def failed(self) -> int:
        """How many reads were failed since the last `fail`."""
        return int(self._ask("count"))

    def forget(self) -> None:
        """Drop what the system's cache has of the files."""
        for file in self.folder.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    def _ask(self, words: str) -> str:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(words + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline().strip()


@contextmanager
def faulty_disk(source: Path, to: Path) -> Iterator[Disk]:
    """Mount the files of `source` at `to`, an empty folder.

    Raises:
        Unavailable: the machine cannot.
    """
    if sys.platform != "linux" or not os.access("/dev/fuse", os.W_OK) or os.getuid():
        raise Unavailable("a disk that fails needs Linux, root and /dev/fuse")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.faulty_disk", str(source), str(to)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None and server.stdin is not None
        answer = server.stdout.readline().strip()
        if answer != "mounted":
            raise Unavailable(f"a file system of our own cannot be mounted here: {answer}")
        yield Disk(to, server)
    finally:
        server.stdin.close()
        server.wait(20)


class Server:
    """Serves one folder of plain files."""

    def __init__(self, source: Path) -> None:
        self.files = sorted(file for file in source.iterdir() if file.is_file())
        self.open = [os.open(file, os.O_RDONLY) for file in self.files]
        self.kind, self.every, self.most = "none", 1, 0
        self.reads = self.count = self.changes = 0
        self.uncached = False

    def command(self, words: str) -> str:
        """Obey a line of the test's."""
        if words.startswith("uncached"):
            self.uncached = words == "uncached 1 0"
        elif words != "count":
            self.kind, every, most = words.split()
            self.every, self.most, self.reads, self.count = int(every), int(most), 0, 0
        return str(self.count)

    def attributes(self, node: int) -> bytes:
        """`struct fuse_attr` of the folder (1) or a file (2 …)."""
        if node == 1:
            return ATTRIBUTES.pack(1, *[0] * 8, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 4096, 0)
        at = os.fstat(self.open[node - 2])
        seconds = int(at.st_mtime) + self.changes
        return ATTRIBUTES.pack(
            node, at.st_size, -(-at.st_size // 512), seconds, seconds, seconds, 0, 0, 0,
            stat.S_IFREG | 0o644, 1, 0, 0, 0, 4096, 0,
        )  # fmt: skip

    def answer(self, operation: int, node: int, body: bytes) -> bytes:
        """The reply to one request; OSError is its error."""
        if operation == INIT:
            _, minor, ahead, flags = struct.unpack_from("<IIII", body)
            return struct.pack(
                "<IIIIHHIIHHI7I", 7, min(minor, 31), ahead, flags & FLAGS, 16, 12, MOST, 1,
                MOST // 4096, 0, 0, *[0] * 7,
            )  # fmt: skip
        if operation == LOOKUP:
            name = body.rstrip(b"\0").decode()
            found = [n for n, file in enumerate(self.files) if file.name == name]
            if not found:
                raise OSError(errno.ENOENT, "")
            return struct.pack("<QQQQII", found[0] + 2, 0, 3600, 0, 0, 0) + self.attributes(
                found[0] + 2
            )
        if operation == GETATTR:
            return struct.pack("<QII", 0, 0, 0) + self.attributes(node)
        if operation in (OPEN, OPENDIR):
            return struct.pack("<QII", 0, int(operation == OPEN and self.uncached), 0)
        if operation == READDIR:
            return self.names(struct.unpack_from("<QQ", body)[1])
        if operation == READ:
            _, offset, size = READ_IN.unpack_from(body)
            return self.bytes(node, offset, size)
        if operation == STATFS:
            return struct.pack("<QQQQQIIII6I", 1, 0, 0, 9, 0, 4096, 255, 4096, 0, *[0] * 6)
        if operation in (RELEASE, RELEASEDIR, FLUSH, DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "")

    def names(self, begin: int) -> bytes:
        """Entries of the folder from number `begin` on."""
        out = b""
        for number, file in list(enumerate(self.files))[begin:][:20]:
            name = file.name.encode()
            entry = struct.pack("<QQII", number + 2, number + 1, len(name), stat.S_IFREG >> 12)
            out += (entry + name).ljust(-(-(24 + len(name)) // 8) * 8, b"\0")
        return out

    def bytes(self, node: int, offset: int, size: int) -> bytes:
        """What a read gives, or fails with."""
        data = os.pread(self.open[node - 2], size, offset)
        self.reads += 1
        if self.kind == "none" or self.reads % self.every or self.count >= self.most:
            return data
        self.count += 1
        if self.kind == "error":
            raise OSError(errno.EIO, "")
        if self.kind == "slow":
            time.sleep(0.02)
        if self.kind == "changed":
            self.changes += 1
            return bytes(byte ^ 0xFF for byte in data[:4096]) + data[4096:]
        return data[: max(len(data) // 1024, 1) * 512] if self.kind == "short" else data


def mount(device: int, to: str) -> None:
    """Mount what `device` serves. Raises OSError: it is refused."""
    call = ctypes.CDLL(None, use_errno=True).mount
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={MOST}"
    flags = 1 | 2 | 4  # read-only, no setuid, no devices
    if call(b"faulty", to.encode(), b"fuse", flags, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def serve(device: int, server: Server, say: Callable[[str], object]) -> None:
    """Answer requests and commands until the commands end."""
    waiting = select.poll()
    waiting.register(device, select.POLLIN)
    waiting.register(0, select.POLLIN | select.POLLHUP)
    while True:
        ready = dict(waiting.poll())
        if 0 in ready:
            words = sys.stdin.readline().strip()
            if not words:
                return
            say(server.command(words))
        if device not in ready:
            continue
        try:
            request = os.read(device, MOST + 4096)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                continue
            return
        _, operation, unique, node = HEADER.unpack_from(request)[:4]
        if operation in NO_REPLY:
            continue
        code, body = 0, b""
        try:
            body = server.answer(operation, node, request[HEADER.size :])
        except OSError as error:
            code = -(error.errno or errno.EIO)
        try:
            os.write(device, REPLY.pack(REPLY.size + len(body), code, unique) + body)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the request was interrupted
                return


def main(source: Path, to: str) -> None:
    """Mount, serve, unmount."""

    def say(words: str) -> None:
        sys.stdout.write(words + "\n")
        sys.stdout.flush()

    server = Server(source)
    device = os.open("/dev/fuse", os.O_RDWR)
    try:
        mount(device, to)
    except OSError as error:
        say(str(error.strerror))
        return
    say("mounted")
    try:
        serve(device, server, say)
    finally:
        os.close(device)  # ends what still waits for an answer
        ctypes.CDLL(None).umount2(to.encode(), 2)  # MNT_DETACH


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
