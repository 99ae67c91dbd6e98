"""The threads that take part in kernels, beside the one that asks for them.

Between two kernels of a token lie a tenth of a millisecond of Python, or a read; to wake a thread
takes as long as many a kernel. So a helper stays awake for a while after each, and looks for the
next one. Not for long, and not at all after a kernel of a prompt: BLAS wants the cores then.

Nobody waits for a helper to come. Who asks begins at once, and whoever of the crew is awake joins;
a job is a function that all of them call, each taking tasks until there are none. It is over when
those who joined have left.
"""

from __future__ import annotations

import atexit
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

STAY_S = 1e-3
"""So long a helper looks for the next kernel."""
POLLS = 10_000
"""By which it is measured how often it can look in a second."""
SPREAD = 8
"""Between two fields: as many numbers as a cache line holds."""
OPEN, ENTERED, LEFT, CODE, JOB, HELPERS, PATIENCE, NUMBER, ASLEEP = range(0, 9 * SPREAD, SPREAD)
"""Fields: the job that may be joined, or 0; how often one of the crew came and went; what the job
calls, and with what; how many may join; how often they look for the next; how many jobs there have
been; and from the last field on, whether each of the crew sleeps."""


def _together(mail: int, code: int, job: int, helpers: int, patience: int) -> None:
    """Have `code` called with `job` by this thread and by those of the crew who are awake."""
    if helpers == 0:
        call_task(code, job, 0)
        return
    put_whole(mail, CODE, code)
    put_whole(mail, JOB, job)
    put_whole(mail, HELPERS, helpers)
    put_whole(mail, PATIENCE, patience)
    put_whole(mail, NUMBER, whole(mail, NUMBER) + 1)
    exchange(mail, OPEN, whole(mail, NUMBER))
    call_task(code, job, 0)
    exchange(mail, OPEN, 0)
    while count_done(mail, LEFT) != count_done(mail, ENTERED):
        pause()


together = register_jitable(_together)


@lru_cache
def server() -> Any:
    """What one of the crew does while it is awake; it is told, and says, which job it saw last."""

    def serve(mail: int, helper: int, seen: int) -> int:
        while True:
            looks = 0
            while count_done(mail, OPEN) == 0 or count_done(mail, OPEN) == seen:
                if looks >= whole(mail, PATIENCE):
                    exchange(mail, ASLEEP + SPREAD * helper, 1)
                    return seen
                looks += 1
                pause()
            # Counted before it is looked again: from now on nobody closes the job without waiting.
            add_done(mail, ENTERED)
            seen = count_done(mail, OPEN)
            if seen != 0 and helper < whole(mail, HELPERS):
                call_task(whole(mail, CODE), whole(mail, JOB), helper + 1)
            add_done(mail, LEFT)

    signature = types.int64(*[types.int64] * 3)
    return cached(lambda keep: njit(signature, nogil=True, cache=keep)(serve))


class Crew:
    """At most `size` helpers, which come to be when the first is needed.

    Attributes:
        mail: the address of the fields.
        patience: how often a helper that is to stay looks for the next kernel.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._fields = np.empty(ASLEEP + SPREAD * (size + 1), np.int64)
        self._asleep = self._fields[ASLEEP::SPREAD]
        self._dismissed = False
        self.mail = int(self._fields.ctypes.data)
        self.patience = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """Nobody is there: so it is at first, and in a process that was forked off."""
        self._fields[:] = 0
        self._threads: list[threading.Thread] = []
        self._bells = [threading.Lock() for _ in range(self._size)]

    def rouse(self, helpers: int) -> None:
        """Wake those of the first `helpers` who sleep."""
        if not self._threads:
            self._start()
        for number in range(helpers):
            if self._asleep[number]:
                self._asleep[number] = 0
                self._bells[number].release()

    def _start(self) -> None:
        serve = server()
        self._fields[PATIENCE] = POLLS
        begin = time.perf_counter()
        serve(self.mail, 0, 0)
        self.patience = round(STAY_S * POLLS / (time.perf_counter() - begin))
        for number, bell in enumerate(self._bells):
            bell.acquire()
            self._asleep[number] = 1
            helper = threading.Thread(
                target=self._help, args=(number, serve), name=f"kernels-{number}", daemon=True
            )
            helper.start()
            self._threads.append(helper)
        atexit.register(self._dismiss)

    def _help(self, number: int, serve: Any) -> None:
        seen = 0
        while True:
            self._bells[number].acquire()
            if self._dismissed:
                return
            seen = serve(self.mail, number, seen)

    def _dismiss(self) -> None:
        """Before the interpreter goes, and with it the code that helpers run."""
        self._dismissed = True
        self._fields[PATIENCE] = -1
        while any(helper.is_alive() for helper in self._threads):
            self.rouse(len(self._threads))
            time.sleep(1e-4)


@lru_cache
def crew() -> Crew:
    """The process's."""
    return Crew(threads() - 1)


def _alone() -> None:
    if crew.cache_info().currsize:
        crew().begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)
