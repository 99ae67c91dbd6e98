"""Kernel chains: kernels that run one after the other on all threads, without Python in between.

Before its experts a layer runs a dozen kernels of a microsecond to a millisecond for one token.
Called one by one, each wakes threads and runs Python code that the previous weights have evicted
from the processor's caches: together about 0.2 ms per layer. In a chain the threads stay awake, and
between two kernels wait only for the last task.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange, types

from .arguments import call_task, count_at, increment, int_at, put_int
from .compiled import WORTH_A_THREAD, Array, Prepared, address, cached, threads

CODE, ARGUMENTS, TASKS = range(3)
FIELDS = 3
COUNT, CHAIN_NUMBERS = 2, 4
"""The place of the number of links in `Chain.numbers`, and how many those are."""
SPREAD = 8
"""The distance of two counters: the int64s in a cache line."""


class Link(NamedTuple):
    """A kernel and its arguments: its task function is called with 0 … tasks − 1."""

    code: int
    arguments: Array
    tasks: int
    memory: tuple[Array, ...]


class Workspace:
    """Named memory between kernels; chains that do not run at the same time share it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Array] = {}

    def floats(self, name: str, count: int) -> Array:
        """The float32 [count] called `name`."""
        return self._known.setdefault((name, count), np.empty(count, np.float32))


def link(code: int, tasks: int, *arguments: Array | int | None) -> Link:
    """A link with these arguments; arrays are passed by address and kept alive."""
    numbers = [int(each) if isinstance(each, int) else address(each) for each in arguments]
    memory = tuple(each for each in arguments if isinstance(each, np.ndarray))
    return Link(code, np.array(numbers, np.int64), tasks, memory)


@lru_cache
def chain_runner() -> Any:
    """The code of `Chain.run`: addresses of links and counters, first and last link, threads.

    And a task to run once, its arguments' address, which is 0 if there is none: one thread runs it
    first, while the others begin with the links.
    """

    def run(
        table: int, counters: int, first: int, last: int, workers: int, code: int, words: int
    ) -> None:
        if workers == 1:
            if words:
                call_task(code, words, 0)
            for place in range(FIELDS * first, FIELDS * last, FIELDS):
                code, arguments = int_at(table, place + CODE), int_at(table, place + ARGUMENTS)
                for number in range(int_at(table, place + TASKS)):
                    call_task(code, arguments, number)
            return
        for place in range(0, 2 * SPREAD * (last - first), SPREAD):
            put_int(counters, place, 0)
        done = counters + 8 * SPREAD
        for worker in prange(workers):
            if worker == 0 and words:
                call_task(code, words, 0)
            for link in range(first, last):
                place = FIELDS * link
                code, arguments = int_at(table, place + CODE), int_at(table, place + ARGUMENTS)
                tasks = int_at(table, place + TASKS)
                counter = 2 * SPREAD * (link - first)
                number = increment(counters, counter)
                while number < tasks:
                    call_task(code, arguments, number)
                    increment(done, counter)
                    number = increment(counters, counter)
                # Spin without yielding: another thread would keep the processor for milliseconds.
                while count_at(done, counter) < tasks:
                    pass

    signature = types.void(*[types.int64] * 7)
    return cached(lambda keep: njit(signature, parallel=True, nogil=True, cache=keep)(run))


def links_of(prepared: Prepared, x: Array, out: Array) -> list[Link]:
    """A prepared kernel as links from `x` to `out`; it has no other use, and they must not move."""
    arguments, (x_at, out_at) = prepared.arguments, prepared.places
    # Rows of `out` may be further apart than they are long.
    arguments[x_at], arguments[out_at] = address(x), out.ctypes.data
    memory = (*prepared.memory, x, out)
    return [Link(code, arguments, tasks, memory) for code, tasks in prepared.stages if tasks]


class Chain:
    """Links that run in order.

    Args:
        nbytes: approximate memory that they read, which decides the number of threads.

    Attributes:
        numbers: what compiled code needs to run it: the addresses of its links and counters, how
            many links there are, and the number of threads.
    """

    def __init__(self, links: Iterable[Link], nbytes: int) -> None:
        self._links = [*links]
        self._table = np.array(
            [(each.code, address(each.arguments), each.tasks) for each in self._links], np.int64
        )
        self._counters = np.zeros(2 * SPREAD * len(self._links), np.int64)
        workers = max(1, min(threads(), nbytes // WORTH_A_THREAD))
        addresses = address(self._table), address(self._counters)
        self.numbers = (*addresses, len(self._links), workers)
        self._run = chain_runner()

    def run(self, first: int = 0, last: int | None = None) -> None:
        """Run links from `first` to before `last`, by default the end; `RUNNING` is locked."""
        table, counters, count, workers = self.numbers
        self._run(table, counters, first, count if last is None else last, workers, 0, 0)
