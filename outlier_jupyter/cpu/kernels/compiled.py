"""Compiles kernels, caches their code, and distributes their tasks over threads.

A kernel is a function of (address of its arguments, task number), compiled on its own: that takes a
fraction of a second, where a parallel Numba loop takes several. One parallel loop serves all
kernels: each thread takes the next task until none is left, so a slow or busy core does less.

Numba caches compiled code in files, but checks only the function's own file for changes. Here the
folder's name holds a hash of the files whose code is inlined elsewhere, and of the processor's
features: code of an older inner loop or of another processor is never loaded.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

# The OpenMP runtime reads it when it starts. By default its threads spin for milliseconds after
# each kernel, on cores that MLX, BLAS and the readers need in between.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numba
import numpy as np
from numba import cfunc, njit, prange, types
from numba.core import config

from .arguments import call_task, next_number
from .processor import FEATURES, cpu_name

Array = np.ndarray[Any, Any]
RUNNING = threading.Lock()
"""Locked while a kernel runs. Two at once would share the cores, and Numba's own thread pool, used
without OpenMP, must not be entered twice."""


ORDERED = {"reassoc", "contract"}
"""Fast-math flags that allow only reordering of sums and fused multiply-add."""


@lru_cache
def cache_folder() -> Path | None:
    """The folder for code compiled from these sources for this processor.

    It is below NUMBA_CACHE_DIR, or the user's cache; None if it cannot be written.
    """
    sources = [Path(__file__).parent / f"{name}.py" for name in INLINED]
    target = " ".join((cpu_name(), *sorted(FEATURES))).encode()
    made_of = [target, *(source.read_bytes() for source in sources)]
    digest = hashlib.sha256(b"".join(made_of)).hexdigest()[:16]
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


def cached(make: Callable[[bool], Any]) -> Any:
    """Call `make` with Numba's cache folder set; its argument is whether code can be cached."""
    folder = cache_folder()
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder or before)
    try:
        return make(folder is not None)
    finally:
        config.CACHE_DIR = before


def task(function: Callable[[int, int], None], finite: bool = True) -> int:
    """Compile a kernel's task function (arguments' address, number) or load it from the cache.

    Args:
        finite: whether the code may assume that there are no infinities and NaNs.

    Returns:
        The address of its code.
    """
    fastmath = True if finite else ORDERED
    signature = types.void(types.int64, types.int64)

    def make(cache: bool) -> Any:
        return cfunc(
            signature, cache=cache, fastmath=fastmath, error_model="numpy", boundscheck=False
        )(function)

    compiled = cached(make)
    COMPILED.append(compiled)
    return int(compiled.address)


INLINED = (
    "activations",
    "unpack",
    "integer_activations",
    "formats",
    "gating",
    "arguments",
    "processor",
    "reductions",
    "rows",
    "simd",
    "tiles",
    "few_rows",
    "attention_state",
    "tile_registers",
    "system_calls",
    "vectors",
    "kernel_chain",
    "../../checkpoint/linux_aio",
    "../../residency/slots",
    "../../residency/policies/lru",
    "../../residency/policies/predictive",
    "tile_codes",
    "weight_tiles",
)
"""Files, from this folder on, whose code or numbers are compiled into code of other files."""
COMPILED: list[Any] = []
"""Compiled objects: their code would be freed with them, and only its address is returned."""


@lru_cache
def task_loop() -> Any:
    """The one parallel loop, which calls the tasks of all kernels."""

    def run_tasks(
        numbers: Array, x: Array, x_at: int, out: Array, out_at: int, before: int, befores: int,
        first: int, firsts: int, then: int, thens: int, workers: int,
    ) -> None:  # fmt: skip
        # An array's address is free here; in Python it takes a microsecond.
        arguments = numbers.ctypes.data
        if x_at >= 0:
            numbers[x_at], numbers[out_at] = x.ctypes.data, out.ctypes.data
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
            number = next_number(counter)
            while number < firsts + thens:
                if number < firsts:
                    call_task(first, arguments, number)
                else:
                    call_task(then, arguments, number - firsts)
                number = next_number(counter)

    rows, number = types.float32[:, ::1], types.int64
    signature = types.void(types.int64[::1], rows, number, rows, *[number] * 8)
    return cached(lambda cache: njit(signature, parallel=True, nogil=True, cache=cache)(run_tasks))


class Stage(NamedTuple):
    """A kernel's task function, called with 0 … tasks − 1."""

    code: int
    tasks: int


NOTHING = Stage(0, 0)


WORTH_A_THREAD = 1 << 17
"""Bytes to read per thread from which on another thread pays: waking it takes about 5 µs."""


class Prepared:
    """A kernel with its arguments set, to run many times, each time on other rows.

    Args:
        arguments: int64 [numbers], as the kernels read them.
        places: indices in `arguments` of the addresses of input and output rows; negative if the
            addresses are set already.
        nbytes: approximate memory that the tasks read, which decides the number of threads.
        memory: arrays that `arguments` points to, kept alive.

    Attributes:
        address: of `arguments`.
        stages: `before`, `first` and `then`.
    """

    def __init__(
        self, arguments: Array, places: tuple[int, int], nbytes: int, first: Stage,
        before: Stage = NOTHING, then: Stage = NOTHING, memory: Sequence[Array] = (),
    ) -> None:  # fmt: skip
        workers = max(1, min(first.tasks + then.tasks, threads(), nbytes // WORTH_A_THREAD))
        self.arguments, self.address = arguments, address(arguments)
        self.stages = (before, first, then)
        self.places = places
        self.memory = tuple(memory)
        self._work = (*before, *first, *then, workers)
        self._run_tasks = task_loop()

    def run(self, x: Array, out: Array) -> None:
        """Read `x` and write `out`, both contiguous float32 [rows, width]; `RUNNING` is locked.

        The tasks of `before` run on this thread, then those of `first` and `then` on several, in
        order: tasks of `then` start while the last ones of `first` are running, and each waits
        for the results that it needs.
        """
        self._run_tasks(self.arguments, x, self.places[0], out, self.places[1], *self._work)


NO_ROWS = np.empty((0, 0), np.float32)


def run(
    arguments: Array, nbytes: int, first: Stage, *, before: Stage = NOTHING, then: Stage = NOTHING
) -> None:
    """Run a kernel once, as `Prepared.run`; all addresses are in `arguments`."""
    prepared = Prepared(arguments, (-1, -1), nbytes, first, before, then)
    with RUNNING:
        prepared.run(NO_ROWS, NO_ROWS)


_work_memory = np.empty(0, np.float32)


def work_memory(count: int) -> Array:
    """Scratch memory of `count` float32, for a kernel to use while it runs.

    Kernels run one at a time and share it, so it stays in the processor's cache. A caller that
    keeps an address in it must keep the array: a larger one may replace it.
    """
    global _work_memory
    if len(_work_memory) < count:
        _work_memory = np.empty(max(count, 2 * len(_work_memory)), np.float32)
    return _work_memory


@lru_cache
def threads() -> int:
    """The number of threads of a kernel; cached, because Numba takes a lock to answer."""
    return int(numba.get_num_threads())


def address(array: Array | None) -> int:
    """The address of a contiguous array; 0 for None."""
    if array is None:
        return 0
    if not array.flags.c_contiguous:
        raise ValueError(f"an array of strides {array.strides} cannot be read in one go")
    return int(array.ctypes.data)
