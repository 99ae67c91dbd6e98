"""How kernels are compiled, where the code is kept, and how their tasks are dealt to threads.

A kernel is a function of (address of its arguments, number of a task), compiled by itself: that
takes a fraction of a second, where a loop that Numba makes parallel takes several. One parallel
loop serves all of them: each thread takes the next task until there are none, so that a core
which is slower or busy does less.

Numba keeps what it compiled in files and asks only whether the function's own file has changed.
Here the folder's name holds a hash of the files whose code is put into others' functions and of the
processor's instructions: code of an older inner loop, or of another processor, is never taken.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

# Read by the OpenMP runtime when it starts. By default its threads look for work for milliseconds
# after each kernel, on the cores that MLX, BLAS and the readers need in between.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numba
import numpy as np
from numba import cfunc, njit, prange, types
from numba.core import config

from .arguments import call_task, take
from .processor import FEATURES, cpu_name

Array = np.ndarray[Any, Any]
RUNNING = threading.Lock()
"""Held while a kernel runs. Two at once would share the cores, and Numba's own thread pool, taken
where there is no OpenMP, may not be entered twice at all."""


ORDERED = {"reassoc", "contract"}
"""Sums may be taken in another order, and nothing else."""


@lru_cache
def cache_folder() -> Path | None:
    """Where machine code made from these very sources, for this processor, is kept.

    Below NUMBA_CACHE_DIR, or the user's cache; None if nothing can be written.
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
    """What `make` compiles, where its code is kept; it is told whether it can be."""
    folder = cache_folder()
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder or before)
    try:
        return make(folder is not None)
    finally:
        config.CACHE_DIR = before


def task(function: Callable[[int, int], None], finite: bool = True) -> int:
    """Compile a kernel's task (arguments' address, number) or load it; the address of its code.

    Args:
        finite: whether it may be compiled as if there were no infinities and no NaNs.
    """
    fastmath = True if finite else ORDERED
    signature = types.void(types.int64, types.int64)

    def make(cache: bool) -> Any:
        return cfunc(
            signature, cache=cache, fastmath=fastmath, error_model="numpy", boundscheck=False
        )(function)

    compiled = cached(make)
    _KEPT.append(compiled)
    return int(compiled.address)


INLINED = (
    "activations",
    "unpack",
    "integer_activations",
    "formats",
    "arguments",
    "processor",
    "reductions",
    "rows",
    "simd",
)
"""Files of this room whose code becomes part of kernels written elsewhere."""
_KEPT: list[Any] = []
"""What was compiled is freed with its object, and only its address is handed out."""


@lru_cache
def dealer() -> Any:
    """The one parallel loop."""

    def deal(
        given: Array, x: Array, x_at: int, out: Array, out_at: int, before: int, befores: int,
        first: int, firsts: int, then: int, thens: int, workers: int,
    ) -> None:  # fmt: skip
        # Here an array's address costs nothing; asked for in Python it takes a microsecond.
        arguments = given.ctypes.data
        if x_at >= 0:
            given[x_at], given[out_at] = x.ctypes.data, out.ctypes.data
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

    rows, number = types.float32[:, ::1], types.int64
    signature = types.void(types.int64[::1], rows, number, rows, *[number] * 8)
    return cached(lambda cache: njit(signature, parallel=True, nogil=True, cache=cache)(deal))


class Stage(NamedTuple):
    """A kernel's task function and how often it is called: with 0 … tasks − 1."""

    code: int
    tasks: int


NOTHING = Stage(0, 0)


WORTH_A_THREAD = 1 << 17
"""Bytes of memory to read for which waking another thread pays: it takes some 5 µs."""


class Prepared:
    """A kernel made ready to be run many times, each time with other rows of numbers.

    Args:
        arguments: int64 [numbers], as the kernels read them.
        places: where in it the addresses of the rows given and of those to be written belong;
            negative where they are in it already.
        nbytes: about how much memory the tasks go through, which decides how many threads.
        memory: what else `arguments` points to, kept as long as this.

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
        self._deal = dealer()

    def run(self, x: Array, out: Array) -> None:
        """Take `x` and write `out`, both contiguous float32 [rows, width]; with `RUNNING` held.

        The tasks of `before` run on this thread, then those of `first` and `then` on several, taken
        in order: `then` begins while the last of `first` are under way, and its tasks wait by
        themselves for what they need.
        """
        self._deal(self.arguments, x, self.places[0], out, self.places[1], *self._work)


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
    """Room for `count` float32, for a kernel to use while it runs.

    It is everybody's, for kernels run one at a time, and so it stays in the processor's cache. Who
    keeps addresses in it keeps the array, too: a larger one may take its place for others.
    """
    global _work_memory
    if len(_work_memory) < count:
        _work_memory = np.empty(max(count, 2 * len(_work_memory)), np.float32)
    return _work_memory


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
