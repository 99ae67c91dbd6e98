"""Threads that take part in kernels: all tasks are done once, whoever comes or sleeps."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from numba import njit

from outlier_jupyter.kernels.compiled import address, task
from outlier_jupyter.kernels.crew import ASLEEP, SPREAD, Crew, together
from outlier_jupyter.kernels.memory import add_done, put_whole

TASKS = 2_000
COUNTER, CALLED = 0, 16
"""Of a job here: the next task; how often each was called, and after that who did it."""

FORKED = """
import os
import numpy as np
from outlier_jupyter.kernels import Stack, affine
from tests.kernels.conftest import matrix
from outlier_jupyter.kernels.crew import crew

stack = Stack([matrix(affine(4, 64, "bf16"), 4096, 512)[0]])
x = np.ones((1, 512), np.float32)
wanted = stack.multiply(x)
assert len(crew()._threads) == crew()._size
child = os.fork()
same = all(np.array_equal(stack.multiply(x), wanted) for _ in range(100))
if child == 0:
    os._exit(0 if same and all(each.is_alive() for each in crew()._threads) else 1)
assert same and os.waitpid(child, 0)[1] == 0
print("both")
"""


@pytest.fixture(scope="module")
def asked():
    """Have a crew count up a job's tasks: `together` for Python."""

    def share(job: int, who: int) -> None:
        number = add_done(job, COUNTER)
        while number < TASKS:
            add_done(job, CALLED + number)
            put_whole(job, CALLED + TASKS + number, who)
            number = add_done(job, COUNTER)

    @njit(nogil=True)
    def run(mail: int, code: int, job: int, helpers: int, patience: int) -> None:
        together(mail, code, job, helpers, patience)

    code = task(share)
    return lambda crew, job, helpers, patience: run(
        crew.ready(helpers)[0], code, address(job), helpers, patience
    )


@pytest.fixture
def crew():
    """Three helpers, who leave when the test is over."""
    made = Crew(3)
    yield made
    made.leave()
    assert not any(helper.is_alive() for helper in made._threads)


@pytest.mark.parametrize("helpers", [0, 1, 3])
@pytest.mark.parametrize("patience", [0, 50_000])
def test_every_task_is_done_once_by_those_who_may(crew, asked, helpers, patience):
    """Job after job, with helpers who stay awake and with such as sleep between two."""
    for _ in range(200):
        job = np.zeros(CALLED + 2 * TASKS, np.int64)
        asked(crew, job, helpers, patience)
        done, who = job[CALLED : CALLED + TASKS], job[CALLED + TASKS :]
        assert (done == 1).all() and set(who.tolist()) <= set(range(helpers + 1))


def test_helpers_fall_asleep_and_are_woken(crew, asked):
    """Who has looked in vain so often sleeps, and takes part again when there is a job."""
    crew.ready(3)
    until = time.monotonic() + 60
    for helper in (1, 2, 3):
        job = np.zeros(CALLED + 2 * TASKS, np.int64)
        while helper not in job[CALLED + TASKS :]:
            while crew._fields[ASLEEP : ASLEEP + 3 * SPREAD].sum() < 3:
                assert time.monotonic() < until
                time.sleep(1e-4)
            job[:] = 0
            asked(crew, job, 3, 100)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_process_that_was_forked_has_its_own_crew():
    """Threads do not come along, and both compute what they did; both end by themselves."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        capture_output=True, text=True, env=os.environ | {"NUMBA_NUM_THREADS": "2"}, timeout=120,
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (0, "both\n"), found.stderr
