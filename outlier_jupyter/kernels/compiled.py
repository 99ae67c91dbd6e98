"""How kernels are compiled, where the code is kept, and how their tasks are dealt to threads.

A kernel is a function of (address of its arguments, number of a task), compiled by itself: that
takes a fraction of a second, where a loop that Numba makes parallel takes several. One parallel
loop serves all of them: each thread takes the next task until there are none, so that a core
which is slower or busy does less.

Numba keeps what it compiled in files and asks only whether the function's own file has changed.
Here the folder's name holds a hash of the files whose code is put into others' functions, so
code made from an older inner loop is never taken.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

# Read by the OpenMP runtime when it starts. By default its threads look for work for milliseconds
# after each kernel, on the cores that MLX, BLAS and the readers need in between.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numba
import numpy as np
from numba import cfunc, njit, prange, types
from numba.core import config

from .memory import call_task, take

Array = np.ndarray[Any, Any]
RUNNING = threading.Lock()
"""Held while a kernel runs. Two at once would share the cores, and Numba's own thread pool, taken
where there is no OpenMP, may not be entered twice at all."""


@lru_cache
def cache_folder() -> Path | None:
    """Where machine code made from these very sources is kept, or None if nothing can be written.

    Below NUMBA_CACHE_DIR, or the user's cache.
    """
    sources = [Path(__file__).parent / f"{name}.py" for name in INLINED]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    base = os.environ.get("NUMBA_CACHE_DIR")
    if base is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        base = str(Path(home) / "outlier_jupyter")
    folder = Path(base) / f"kernels-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _cached(make: Callable[[bool], Any]) -> Any:
    folder = cache_folder()
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder or before)
    try:
        return make(folder is not None)
    finally:
        config.CACHE_DIR = before


def task(function: Callable[[int, int], None]) -> int:
    """Compile a kernel's task (arguments' address, number) or load it; the address of its code."""
    signature = types.void(types.int64, types.int64)

    def make(cache: bool) -> Any:
        return cfunc(signature, cache=cache, fastmath=True, error_model="numpy", boundscheck=False)(
            function
        )

    compiled = _cached(make)
    _KEPT.append(compiled)
    return int(compiled.address)


INLINED = ("activations", "codes", "formats", "memory", "reductions", "rows", "simd")
"""Files of this room whose code becomes part of kernels written elsewhere."""
_KEPT: list[Any] = []
"""What was compiled is freed with its object, and only its address is handed out."""


@lru_cache
def dealer() -> Any:
    """The one parallel loop."""

    def deal(
        before: int, befores: int, first: int, firsts: int, then: int, thens: int,
        arguments: int, workers: int,
    ) -> None:  # fmt: skip
        for number in range(befores):
            call_task(before, arguments, number)
        if workers == 1:
            for number in range(firsts):
                call_task(first, arguments, number)
            for number in range(thens):
                call_task(then, arguments, number)
            return
        counter = np.zeros(1, np.int64)
        for _ in prange(workers):
            number = take(counter)
            while number < firsts + thens:
                if number < firsts:
                    call_task(first, arguments, number)
                else:
                    call_task(then, arguments, number - firsts)
                number = take(counter)

    signature = types.void(*[types.int64] * 8)
    return _cached(lambda cache: njit(signature, parallel=True, nogil=True, cache=cache)(deal))


@dataclass(frozen=True)
class Stage:
    """A kernel's task function and how often it is called: with 0 … tasks − 1."""

    code: int
    tasks: int


NOTHING = Stage(0, 0)


WORTH_A_THREAD = 1 << 17
"""Bytes of memory to read for which waking another thread pays: it takes some 5 µs."""


def run(
    arguments: Array, nbytes: int, first: Stage, *, before: Stage = NOTHING, then: Stage = NOTHING
) -> None:
    """Run the tasks of `before` on this thread, then those of `first` and `then` on several.

    Tasks are taken in order, and `then` begins while the last of `first` are under way: its
    tasks wait by themselves for what they need.

    Args:
        arguments: int64, as the kernels read them; what they point to is the caller's to keep.
        nbytes: about how much memory the tasks go through, which decides how many threads.
    """
    deal = dealer()
    workers = max(1, min(first.tasks + then.tasks, threads(), nbytes // WORTH_A_THREAD))
    with RUNNING:
        deal(before.code, before.tasks, first.code, first.tasks, then.code, then.tasks,
             arguments.ctypes.data, workers)  # fmt: skip


@lru_cache
def caller() -> Any:
    """A loop over a kernel's tasks on the calling thread."""

    def call(code: int, arguments: int, tasks: int) -> None:
        for number in range(tasks):
            call_task(code, arguments, number)

    signature = types.void(*[types.int64] * 3)
    return _cached(lambda cache: njit(signature, nogil=True, cache=cache)(call))


def call(arguments: Array, stage: Stage) -> None:
    """Run a kernel's tasks on this thread: for those too short to share."""
    caller()(stage.code, arguments.ctypes.data, stage.tasks)


@lru_cache
def threads() -> int:
    """How many threads a kernel uses; asked once, for Numba takes a lock to answer."""
    return int(numba.get_num_threads())


def address(array: Array | None) -> int:
    """Where a contiguous array begins; 0 for None."""
    if array is None:
        return 0
    if not array.flags.c_contiguous:
        raise ValueError(f"an array of strides {array.strides} cannot be read in one go")
    return int(array.ctypes.data)
