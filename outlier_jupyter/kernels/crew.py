"""The threads that take part in kernels, beside the one that asks for them.

Between two kernels of a token lie a tenth of a millisecond of Python, or a read; to wake a thread
takes as long as many a kernel. So a helper stays awake for a while after each, and looks for the
next one. Not after a kernel of a prompt: BLAS wants the cores then.

Nobody waits for a helper to come. Who asks begins at once, and whoever of the crew is awake joins;
a job is a function that all of them call, each taking tasks until there are none. It is over when
those who joined have left. Helpers never hold the interpreter's lock, which one that is woken would
have to wait for: they sleep by the system's own means, `pthread_cond_wait`.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import register_jitable

from .compiled import cached, threads
from .memory import add_done, call_task, count_done, exchange, pause, put_whole, whole

STAY_S = 0.25e-3
"""So long a helper looks for the next kernel."""
POLLS = 10_000
"""By which it is measured how often it can look in a second."""
SPREAD = 8
"""Between two fields: as many numbers as a cache line holds."""
OPEN, ENTERED, LEFT, CODE, JOB, HELPERS, PATIENCE, NUMBER, LEAVE = range(0, 9 * SPREAD, SPREAD)
"""Fields: the job that may be joined, or 0; how often one of the crew came and went; what the job
calls, and with what; how many may join; how often they look for the next; how many jobs there have
been; whether all are to leave."""
MUTEX, SIGNAL, SYSTEM = range(9 * SPREAD, 33 * SPREAD, 8 * SPREAD)
"""Fields of up to 512 bytes: the system's lock and signal, and the addresses of its functions."""
FUNCTIONS = (
    "pthread_mutex_lock", "pthread_mutex_unlock", "pthread_cond_wait", "pthread_cond_broadcast",
)  # fmt: skip
LOCK, UNLOCK, WAIT, WAKE = range(4)
"""Their places."""
ASLEEP = 33 * SPREAD
"""From this field on, for each of the crew whether it sleeps."""


def _system(mail: int, function: int, first: int, second: int) -> None:
    """Call one of `FUNCTIONS`; more than it takes does no harm."""
    call_task(whole(mail, SYSTEM + function), first, second)


system = register_jitable(_system)


def _rouse(mail: int, helpers: int) -> None:
    """Wake those of the first `helpers` who sleep."""
    sleeping = 0
    for helper in range(helpers):
        sleeping += count_done(mail, ASLEEP + SPREAD * helper)
    if sleeping:
        system(mail, LOCK, mail + 8 * MUTEX, 0)
        for helper in range(helpers):
            exchange(mail, ASLEEP + SPREAD * helper, 0)
        system(mail, UNLOCK, mail + 8 * MUTEX, 0)
        system(mail, WAKE, mail + 8 * SIGNAL, 0)  # unlocked, or the first thing they did were wait


rouse = register_jitable(_rouse)


def _sleep(mail: int, helper: int) -> None:
    """Until somebody rouses this one."""
    system(mail, LOCK, mail + 8 * MUTEX, 0)
    exchange(mail, ASLEEP + SPREAD * helper, 1)
    while count_done(mail, ASLEEP + SPREAD * helper) != 0:
        system(mail, WAIT, mail + 8 * SIGNAL, mail + 8 * MUTEX)
    system(mail, UNLOCK, mail + 8 * MUTEX, 0)


sleep = register_jitable(_sleep)


def _together(mail: int, code: int, job: int, helpers: int, patience: int) -> None:
    """Have `code` called with `job` by this thread and by those of the crew who come."""
    if helpers == 0:
        call_task(code, job, 0)
        return
    put_whole(mail, CODE, code)
    put_whole(mail, JOB, job)
    put_whole(mail, HELPERS, helpers)
    put_whole(mail, PATIENCE, patience)
    put_whole(mail, NUMBER, whole(mail, NUMBER) + 1)
    exchange(mail, OPEN, whole(mail, NUMBER))
    rouse(mail, helpers)
    call_task(code, job, 0)
    exchange(mail, OPEN, 0)
    while count_done(mail, LEFT) != count_done(mail, ENTERED):
        pause()


together = register_jitable(_together)


@lru_cache
def looker() -> Any:
    """Looks so often for a job; to be timed."""

    def look(mail: int, polls: int) -> None:
        looks = 0
        while count_done(mail, OPEN) == 0 and looks < polls:
            looks += 1
            pause()

    signature = types.void(types.int64, types.int64)
    return cached(lambda keep: njit(signature, nogil=True, cache=keep)(look))


@lru_cache
def server() -> Any:
    """What one of the crew does until it is to leave."""

    def serve(mail: int, helper: int) -> None:
        seen = 0
        while True:
            looks = 0
            while count_done(mail, OPEN) == 0 or count_done(mail, OPEN) == seen:
                if count_done(mail, LEAVE):
                    return
                if looks >= whole(mail, PATIENCE):
                    sleep(mail, helper)
                    looks = 0
                looks += 1
                pause()
            # Counted before it is looked again: from now on nobody closes the job without waiting.
            add_done(mail, ENTERED)
            seen = count_done(mail, OPEN)
            if seen != 0 and helper < whole(mail, HELPERS):
                call_task(whole(mail, CODE), whole(mail, JOB), helper + 1)
            add_done(mail, LEFT)

    signature = types.void(types.int64, types.int64)
    return cached(lambda keep: njit(signature, nogil=True, cache=keep)(serve))


@lru_cache
def caller() -> Any:
    """`rouse` for Python."""

    def call(mail: int, helpers: int) -> None:
        rouse(mail, helpers)

    signature = types.void(types.int64, types.int64)
    return cached(lambda keep: njit(signature, nogil=True, cache=keep)(call))


class Crew:
    """At most `size` helpers, who come when the first is needed.

    It is used by one thread at a time.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._fields = np.zeros(ASLEEP + SPREAD * (size + 1), np.int64)
        self._threads: list[threading.Thread] = []
        self._mail = int(self._fields.ctypes.data)
        self._patience = 0

    def ready(self, helpers: int, awake: bool = True) -> tuple[int, int, int]:
        """What `together` wants for a job in which so many may join: mail, helpers, patience.

        Args:
            awake: whether they are to look for the next one.
        """
        if helpers and not self._threads:
            self._come()
        return self._mail, helpers, self._patience if awake else 0

    def _come(self) -> None:
        self._prepare()
        serve = server()
        for number in range(self._size):
            helper = threading.Thread(
                target=serve, args=(self._mail, number), name=f"kernels-{number}", daemon=True
            )
            helper.start()
            self._threads.append(helper)
        atexit.register(self.leave)

    def leave(self) -> None:
        """Before the interpreter goes, and with it the code that helpers run."""
        self._fields[LEAVE] = 1
        while any(helper.is_alive() for helper in self._threads):
            caller()(self._mail, self._size)
            time.sleep(1e-4)

    def forget(self) -> None:
        """In a process that was forked off nobody is there."""
        self._fields[:] = 0
        self._threads.clear()

    def _prepare(self) -> None:
        library, first = ctypes.CDLL(None), self._mail
        for init, field in ("pthread_mutex_init", MUTEX), ("pthread_cond_init", SIGNAL):
            library[init](ctypes.c_void_p(first + 8 * field), None)
        for place, name in enumerate(FUNCTIONS):
            code = ctypes.cast(library[name], ctypes.c_void_p).value
            assert code is not None, f"the system has no {name}"
            self._fields[SYSTEM + place] = code
        begin = time.perf_counter()
        looker()(first, POLLS)
        self._patience = round(STAY_S * POLLS / (time.perf_counter() - begin))


@lru_cache
def crew() -> Crew:
    """The process's."""
    return Crew(threads() - 1)


def _forget() -> None:
    if crew.cache_info().currsize:
        crew().forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
