"""Kernels that run one after the other, on all threads, with no way back to Python between them.

What a layer does with one token before its experts is a dozen kernels of a microsecond to a
millisecond. Called one by one, each wakes threads and runs Python code that the weights of the one
before have driven from the processor's caches: together some 0.2 ms a layer. In a chain the
threads stay awake, and wait for each other between two kernels for as long as the last task takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange, types

from .arguments import add_done, call_task, count_done
from .compiled import WORTH_A_THREAD, Array, Prepared, address, cached, threads

CODE, ARGUMENTS, TASKS = range(3)
SPREAD = 8
"""Between two counters: as many numbers as a cache line holds."""


class Link(NamedTuple):
    """A kernel with all it needs: its task is called with 0 … tasks − 1."""

    code: int
    arguments: Array
    tasks: int
    memory: tuple[Array, ...]


class Workspace:
    """Memory that kernels hand each other, by name; chains that are not run at once share it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Array] = {}

    def floats(self, name: str, count: int) -> Array:
        """The float32 [count] of this name."""
        return self._known.setdefault((name, count), np.empty(count, np.float32))


def link(code: int, tasks: int, *given: Array | int | None) -> Link:
    """A link with these arguments: of arrays their addresses, and they live as long as it does."""
    numbers = [int(each) if isinstance(each, int) else address(each) for each in given]
    memory = tuple(each for each in given if isinstance(each, np.ndarray))
    return Link(code, np.array(numbers, np.int64), tasks, memory)


@lru_cache
def chain_runner() -> Any:
    """The code of `Chain.run`."""

    def run(table: Array, counters: Array, first: int, last: int, workers: int) -> None:
        if workers == 1:
            for link in range(first, last):
                for number in range(table[link, TASKS]):
                    call_task(table[link, CODE], table[link, ARGUMENTS], number)
            return
        counters[:] = 0
        taken = counters.ctypes.data
        done = taken + 8 * SPREAD
        for _ in prange(workers):
            for link in range(first, last):
                code, arguments = table[link, CODE], table[link, ARGUMENTS]
                tasks = table[link, TASKS]
                place = 2 * SPREAD * link
                number = add_done(taken, place)
                while number < tasks:
                    call_task(code, arguments, number)
                    add_done(done, place)
                    number = add_done(taken, place)
                # No yielding: who is let in keeps the processor for milliseconds.
                while count_done(done, place) < tasks:
                    pass

    signature = types.void(types.int64[:, ::1], types.int64[::1], *[types.int64] * 3)
    return cached(lambda keep: njit(signature, parallel=True, nogil=True, cache=keep)(run))


def links_of(prepared: Prepared, x: Array, out: Array) -> list[Link]:
    """A kernel that was made ready for this alone, from `x` to `out`, which stay where they are."""
    arguments, (x_at, out_at) = prepared.arguments, prepared.places
    arguments[x_at], arguments[out_at] = address(x), address(out)
    memory = (*prepared.memory, x, out)
    return [Link(code, arguments, tasks, memory) for code, tasks in prepared.stages if tasks]


class Chain:
    """Links in their order.

    Args:
        nbytes: about how much memory they go through, which decides how many threads.
    """

    def __init__(self, links: Iterable[Link], nbytes: int) -> None:
        self._links = [*links]
        self._table = np.array(
            [(each.code, address(each.arguments), each.tasks) for each in self._links], np.int64
        )
        self._counters = np.zeros(2 * SPREAD * len(self._links), np.int64)
        self._workers = max(1, min(threads(), nbytes // WORTH_A_THREAD))
        self._run = chain_runner()

    def __len__(self) -> int:
        return len(self._links)

    def replace(self, place: int, code: int, arguments: int, tasks: int) -> None:
        """Have another kernel at `place`, whose arguments are at an address and stay there."""
        self._table[place] = code, arguments, tasks

    def run(self, first: int = 0, last: int | None = None) -> None:
        """Run links from number `first` to before `last`, or to the end; with `RUNNING` held."""
        last = len(self._links) if last is None else last
        self._run(self._table, self._counters, first, last, self._workers)
