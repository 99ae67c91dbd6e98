"""Notices when the machine, or this process's control group, runs short of memory.

On Linux the kernel reports stalls for memory (PSI): of the process's own control group where
version 2 has it, else of the machine. On macOS the system's pressure level is looked at once a
second. Both are a `PressureSource`; one thread of the process waits for it and calls those who
registered.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from .memory_info import CGROUP, OWN_GROUPS, groups

MACHINE = Path("/proc/pressure/memory")
"""Where Linux reports the whole machine's stalls."""
TRIGGER = b"some 200000 2000000\0"
"""What is reported: some thread waits for memory for 200 ms of 2 s. Without privileges the window
must be a multiple of 2 s."""
LEVEL = b"kern.memorystatus_vm_pressure_level"
"""macOS's name of the level: 1 normal, 2 warning, 4 critical."""
WARNING = 2
LOOK_S = 1.0
"""How often macOS's level is looked at."""


class PressureSource(Protocol):
    """Waits for pressure.

    Attributes:
        name: what is watched, for the status.
    """

    name: str

    def wait(self) -> bool:
        """Wait for pressure; False once it is woken."""

    def wake(self) -> None:
        """End the wait, from any thread, for good; once."""

    def close(self) -> None:
        """Close what is open, on the thread that waited."""


class Stalls:
    """Linux's reports of stalls (PSI).

    Args:
        files: the places that report them; the first that can be watched is.

    Raises:
        OSError: none can be watched.
    """

    def __init__(self, files: list[Path]) -> None:
        self._file, self.name = _watched(files)
        self._woken, self._wake = os.pipe()

    def wait(self) -> bool:
        """Wait for pressure; False once it is woken."""
        waiting = select.poll()
        waiting.register(self._file, select.POLLPRI)
        waiting.register(self._woken, select.POLLIN)
        ready = dict(waiting.poll())
        return self._woken not in ready and not ready.get(self._file, 0) & select.POLLERR

    def wake(self) -> None:
        """End the wait."""
        os.write(self._wake, b"x")

    def close(self) -> None:
        """Close the three descriptors."""
        for descriptor in (self._file, self._woken, self._wake):
            os.close(descriptor)


class Level:
    """macOS's pressure level, which its memory-pressure source reports. Never run.

    Args:
        look: returns the level.
    """

    name = "the system's pressure level"

    def __init__(self, look: Callable[[], int]) -> None:
        self._look, self._woken = look, threading.Event()

    def wait(self) -> bool:
        """Wait for pressure; False once it is woken."""
        while not self._woken.wait(LOOK_S):
            if self._look() >= WARNING:
                return True
        return False

    def wake(self) -> None:
        """End the wait."""
        self._woken.set()

    def close(self) -> None:
        """Nothing is open."""


def open_source(
    machine: Path = MACHINE, cgroup: Path = CGROUP, own: Path = OWN_GROUPS
) -> PressureSource:
    """This system's source.

    Raises:
        OSError: it has none, or does not permit this process to watch it; `strerror` says why.
    """
    if sys.platform == "darwin":
        return Level(_level)
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "this system reports none")
    mine = next(iter(groups(cgroup, own)), None)
    return Stalls([*([mine / "memory.pressure"] if mine else []), machine])


def _watched(files: list[Path]) -> tuple[int, str]:
    """A descriptor with a trigger, and its file's name."""
    failed = OSError(errno.ENOSYS, "the kernel reports no stalls")
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            failed = error
            continue
        try:
            os.write(descriptor, TRIGGER)
        except OSError as error:
            os.close(descriptor)
            failed = error
            continue
        return descriptor, f"stalls in {file}"
    raise failed


def _level() -> int:
    """macOS's level now; 0 if it is not known."""
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    call = getattr(ctypes.CDLL(None), "sysctlbyname", None)
    if call is None or call(LEVEL, ctypes.byref(value), ctypes.byref(size), None, 0):
        return 0
    return value.value


class PressureWatch:
    """Calls functions when memory runs short, on a thread that lives while there are any.

    Args:
        open_source: as the function of this name.
    """

    def __init__(self, open_source: Callable[[], PressureSource] = open_source) -> None:
        self._open = open_source
        self._lock = threading.RLock()  # the collector may end one while another begins
        self._calls: list[Callable[[], object]] = []
        self._source: PressureSource | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self.words = "not watched"

    def add(self, call: Callable[[], object]) -> Callable[[], None]:
        """Call `call` from now on at every report; the returned function ends that.

        Where nothing can be watched `words` says why, and it is never called.
        """
        with self._lock:
            if self._process != os.getpid():  # threads do not come along with a fork
                self._calls, self._source, self._process = [], None, os.getpid()
            self._calls = [*self._calls, call]
            if self._source is None:
                self._begin()

        def remove() -> None:
            with self._lock:
                self._calls = [each for each in self._calls if each is not call]
                if not self._calls:
                    self._end()

        return remove

    def _begin(self) -> None:
        try:
            self._source = self._open()
        except OSError as error:
            self.words = f"not available: {error.strerror or error}"
            return
        self.words = self._source.name
        self._thread = threading.Thread(
            target=self._run, args=(self._source,), name="outlier-memory", daemon=True
        )
        self._thread.start()

    def _end(self) -> None:
        if self._source is None or self._process != os.getpid():
            return
        source, thread, self._source = self._source, self._thread, None
        source.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self.words = "not watched"

    def _run(self, source: PressureSource) -> None:
        while source.wait():
            for call in self._calls:
                with contextlib.suppress(Exception):  # the next report comes
                    call()
        source.close()


pressure_watch = PressureWatch()
"""The process's only instance."""
