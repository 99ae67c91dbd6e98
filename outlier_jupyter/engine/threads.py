"""Frees what MLX keeps for each thread that computes when the thread ends; else MLX aborts."""

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
    """Free what MLX keeps for the calling thread; call it when a thread that ran an engine ends.

    MLX starts threads of its own for each thread that computes. Those that remain when the process
    exits abort it ("terminate called without an active exception").
    """
    if threading.current_thread() is not threading.main_thread():
        mx.clear_streams()


class StreamsCleanup:
    """Does as `leave_thread` when the thread that made it ends, also a user's own thread.

    A thread that Python cuts off instead is blocked (`_block_at_exit`).
    """

    def __init__(self) -> None:
        self._thread, self._release = threading.get_ident(), _block_at_exit()
        # The modules may be gone when they are needed.
        self._get_ident, self._clear = threading.get_ident, mx.clear_streams

    def __del__(self) -> None:
        if self._get_ident() == self._thread:  # not the thread that finalizes Python
            self._clear()
            self._release()


class ThreadCleanup(threading.local):
    """One `StreamsCleanup` per thread that uses MLX."""

    _cleanup: StreamsCleanup | None = None

    def begin(self) -> None:
        """Clean up when the calling thread ends."""
        if threading.current_thread() is not threading.main_thread():
            self._cleanup = self._cleanup or StreamsCleanup()


thread_cleanup = ThreadCleanup()

if threading.current_thread() is not threading.main_thread():
    # If a thread imports MLX first, MLX frees only that thread's state at the process's exit. The
    # main thread's is freed later, needs Python when it is gone, and crashes.
    atexit.register(mx.clear_streams)

_libc: Any = ctypes.PyDLL(None) if sys.platform == "linux" else None
_at_thread_exit: Any = getattr(_libc, "__cxa_thread_atexit_impl", None)  # musl has none
if _at_thread_exit is not None:
    _libc.calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
    _libc.calloc.restype = ctypes.c_void_p
    _libc.sem_init.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)
    _libc.sem_post.argtypes = (ctypes.c_void_p,)
    _at_thread_exit.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


def _block_at_exit() -> Callable[[], object]:
    """Block the calling thread when it exits, for ever unless the returned function was called.

    Python ends a daemon thread that wakes during finalization with `pthread_exit`. The destructors
    of MLX's state for the thread then wait for Python's lock, are ended in the same way, and as
    they may not throw, the C++ library aborts the process. Destructors run in reverse order of
    creation, so the blocking one is created after all of MLX's and runs before them. The process's
    exit does not wait for the thread. From Python 3.14 on Python blocks such threads itself.
    """
    if _at_thread_exit is None:
        return lambda: None
    state: Any = mx.random.state
    # Creates MLX's state: the random key, the streams and the store of compiled functions.
    mx.compile(lambda key: key)(state[0])
    semaphore = _libc.calloc(1, SEMAPHORE_NBYTES)
    _libc.sem_init(semaphore, 0, 0)
    for function in (_libc.free, _libc.sem_wait):  # called in reverse order
        _at_thread_exit(ctypes.cast(function, ctypes.c_void_p), semaphore, None)
    return partial(_libc.sem_post, semaphore)
