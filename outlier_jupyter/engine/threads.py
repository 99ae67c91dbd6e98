"""What MLX keeps for each thread that computes: freed when the thread ends, else it aborts."""

from __future__ import annotations

import atexit
import ctypes
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

SEMAPHORE_NBYTES = 64
"""At least the size of the C library's `sem_t`."""


def leave_thread() -> None:
    """Free what MLX keeps for the calling thread; at the end of one that ran an engine.

    MLX starts threads of its own for each thread that computes. Those that are left when
    the process exits abort it ("terminate called without an active exception").
    """
    if threading.current_thread() is not threading.main_thread():
        mx.clear_streams()


class LeavesThread:
    """Does as `leave_thread` when the thread that made it ends, also one of the user's own.

    A thread that Python cuts off instead is held (`_hold`).
    """

    def __init__(self) -> None:
        self._thread, self._release = threading.get_ident(), _hold()
        # By then the modules may be gone.
        self._here, self._leave = threading.get_ident, mx.clear_streams

    def __del__(self) -> None:
        if self._here() == self._thread:  # not the one that finalizes Python
            self._leave()
            self._release()


class AtItsEnd(threading.local):
    """What goes with each thread."""

    _thread: LeavesThread | None = None

    def begin(self) -> None:
        """MLX is used on this thread."""
        if threading.current_thread() is not threading.main_thread():
            self._thread = self._thread or LeavesThread()


at_its_end = AtItsEnd()

if threading.current_thread() is not threading.main_thread():
    # MLX, first imported there, frees at the process's exit what it keeps for that thread alone;
    # what is left of the main one's asks for Python when there is none, and crashes.
    atexit.register(mx.clear_streams)

_libc: Any = ctypes.PyDLL(None) if sys.platform == "linux" else None
_at_thread_exit: Any = getattr(_libc, "__cxa_thread_atexit_impl", None)  # musl has none
if _at_thread_exit is not None:
    _libc.calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
    _libc.calloc.restype = ctypes.c_void_p
    _libc.sem_init.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)
    _libc.sem_post.argtypes = (ctypes.c_void_p,)
    _at_thread_exit.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


def _hold() -> Callable[[], object]:
    """Hold the calling thread when it exits, for ever unless what is returned was called.

    A daemon that wakes while Python is finalized is ended by Python with `pthread_exit`. The
    destructors of what MLX keeps for the thread then ask for Python's lock, are ended in the same
    way, and as they may not throw the C++ library aborts the process. They are called last made
    first: so what holds the thread is made after all of MLX's, and waits before them. The process's
    exit does not wait for it. From Python 3.14 on Python holds such threads itself.
    """
    if _at_thread_exit is None:
        return lambda: None
    state: Any = mx.random.state
    # Makes MLX's: the random key, the streams and the store of compiled functions.
    mx.compile(lambda key: key)(state[0])
    semaphore = _libc.calloc(1, SEMAPHORE_NBYTES)
    _libc.sem_init(semaphore, 0, 0)
    for function in (_libc.free, _libc.sem_wait):  # the last is called first
        _at_thread_exit(ctypes.cast(function, ctypes.c_void_p), semaphore, None)
    return partial(_libc.sem_post, semaphore)
