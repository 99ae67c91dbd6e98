"""Interrupts at chosen moments: SIGINT after a number of executed lines of the package."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

import outlier_jupyter

PACKAGE = str(Path(outlier_jupyter.__file__).parent)


@contextmanager
def python_s_handler() -> Iterator[None]:
    """SIGINT raises, as in a shell: a process in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def lines_of(call: Callable[[], object], at: Collection[int] = ()) -> int:
    """Call `call` and count the lines of the package that this thread runs in it.

    Args:
        at: SIGINT is sent before the lines of these numbers, from 0.
    """
    count = 0

    def trace(frame: FrameType, event: str, value: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            count += 1
            if count - 1 in at:
                sys.setprofile(go_on)  # only now: it is called for every function of all modules
                signal.raise_signal(signal.SIGINT)
        return trace

    def go_on(frame: FrameType, event: str, value: Any) -> None:
        if sys.gettrace() is None:  # an exception in a trace function removes it
            sys.settrace(trace)

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.setprofile(before[1])
        sys.settrace(before[0])
    return count


def open_files(folder: Path) -> list[str]:
    """What this process has open below `folder`."""
    return [
        file.path for file in psutil.Process().open_files() if file.path.startswith(str(folder))
    ]


def threads(but: Iterable[threading.Thread] = ()) -> list[str]:
    """The names of the package's threads, but for those that others began."""
    began = set(threading.enumerate()) - set(but)
    return sorted(t.name for t in began if t.name.startswith("outlier"))
