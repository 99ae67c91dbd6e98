"""Kernels made ready to run, and how their tasks are dealt to threads.

All of the crew who are awake take the next task until there are none, so that a core which is
slower or busy does less.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

from .compiled import Array, address, cached, task, threads
from .crew import crew, together
from .memory import add_done, call_task, whole

RUNNING = threading.Lock()
"""Held while a kernel runs. Two at once would share the cores, and there is one crew."""

GIVEN, FIRST, FIRSTS, THEN, THENS, TAKEN = range(6)
"""Of a job that is dealt out: arguments, both kernels and their tasks, how many were taken."""


@lru_cache
def share_task() -> int:
    """One thread's part of a kernel's tasks."""

    def share(job: int, _: int) -> None:
        arguments, first, then = whole(job, GIVEN), whole(job, FIRST), whole(job, THEN)
        firsts = whole(job, FIRSTS)
        tasks = firsts + whole(job, THENS)
        number = add_done(job, TAKEN)
        while number < tasks:
            if number < firsts:
                call_task(first, arguments, number)
            else:
                call_task(then, arguments, number - firsts)
            number = add_done(job, TAKEN)

    return task(share)


@lru_cache
def dealer() -> Any:
    """The code of `Prepared.run`."""

    def deal(
        given: Array, x: Array, x_at: int, out: Array, out_at: int, before: int, befores: int,
        job: Array, share: int, mail: int, helpers: int, patience: int,
    ) -> None:  # fmt: skip
        # Here an array's address costs nothing; asked for in Python it takes a microsecond.
        if x_at >= 0:
            given[x_at], given[out_at] = x.ctypes.data, out.ctypes.data
        for number in range(befores):
            call_task(before, given.ctypes.data, number)
        job[TAKEN] = 0
        together(mail, share, job.ctypes.data, helpers, patience)

    rows, number, whole_numbers = types.float32[:, ::1], types.int64, types.int64[::1]
    signature = types.void(
        whole_numbers, rows, number, rows, *[number] * 3, whole_numbers, *[number] * 4
    )
    return cached(lambda cache: njit(signature, nogil=True, cache=cache)(deal))


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
        awake: whether the next kernel comes soon, so that helpers stay awake for it.

    Attributes:
        address: of `arguments`.
        stages: `before`, `first` and `then`.
    """

    def __init__(
        self, arguments: Array, places: tuple[int, int], nbytes: int, first: Stage,
        before: Stage = NOTHING, then: Stage = NOTHING, memory: Sequence[Array] = (),
        awake: bool = True,
    ) -> None:  # fmt: skip
        self.arguments, self.address = arguments, address(arguments)
        self.stages = (before, first, then)
        self.places = places
        self.memory = tuple(memory)
        self._helpers = helpers_for(nbytes, first.tasks + then.tasks)
        self._crew = crew()
        self._job = np.array([self.address, *first, *then, 0], np.int64)
        self._before, self._awake = before, awake
        self._deal, self._share = dealer(), share_task()

    def run(self, x: Array, out: Array) -> None:
        """Take `x` and write `out`, both contiguous float32 [rows, width]; with `RUNNING` held.

        The tasks of `before` run on this thread, then those of `first` and `then` on several, taken
        in order: `then` begins while the last of `first` are under way, and its tasks wait by
        themselves for what they need.
        """
        self._deal(
            self.arguments, x, self.places[0], out, self.places[1], *self._before, self._job,
            self._share, *self._crew.ready(self._helpers, self._awake),
        )  # fmt: skip


NO_ROWS = np.empty((0, 0), np.float32)


def run(
    arguments: Array, nbytes: int, first: Stage, *, before: Stage = NOTHING, then: Stage = NOTHING
) -> None:
    """Run a kernel of a prompt once, as `Prepared.run`; all addresses are in `arguments`."""
    prepared = Prepared(arguments, (-1, -1), nbytes, first, before, then, awake=False)
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


def helpers_for(nbytes: int, tasks: int | None = None) -> int:
    """How many threads take part beside the one that asks.

    Args:
        nbytes: about how much memory is gone through; `tasks`: of which none is shared.
    """
    most = threads() if tasks is None else min(threads(), tasks)
    return max(1, min(most, nbytes // WORTH_A_THREAD)) - 1
