"""Runs on the user's own threads, and an engine that is free again after any error."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import mlx.core as mx
import psutil
import pytest

from outlier_jupyter import load
from tests.inspection import inside

ON_A_THREAD = """
import sys, threading
import outlier_jupyter
engine = outlier_jupyter.load("demo", cache_experts=24, quiet=True, kernels=sys.argv[1])
thread = threading.Thread(target=engine.generate, args=("hello",), kwargs={"max_tokens": 4})
thread.start()
thread.join()
print(engine.last_run.tokens.size)
"""


@pytest.mark.parametrize("kernels", ["auto", "mlx"])
def test_a_process_that_ran_on_a_thread_of_its_own_ends_well(kernels):
    """MLX would abort it because of the threads that it keeps for an ended one."""
    command = [sys.executable, "-c", ON_A_THREAD, kernels]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


def test_a_thread_can_run_again_and_keeps_its_own_arrays(tiny):
    """Arrays not evaluated before a run can be evaluated after it."""
    found = []

    def work(engine):
        mine = mx.ones(3) + 1
        runs = [engine.generate("hello", max_tokens=2).tokens.tolist() for _ in range(2)]
        found.append((mine.tolist(), runs[0] == runs[1]))

    with load(tiny, cache_experts=8) as engine:
        thread = threading.Thread(target=work, args=(engine,))
        thread.start()
        thread.join()
    assert found == [([2, 2, 2], True)]


@pytest.mark.parametrize("what", [KeyboardInterrupt, RuntimeError])
def test_an_engine_is_free_whatever_comes_between_the_last_steps(tiny, monkeypatch, what):
    """Even when clean-up after a run fails, the next call and `close` work."""
    with load(tiny, cache_experts=8) as engine:
        before = engine.generate("hello", max_tokens=3).tokens.tolist()
        settle = type(inside(engine)).settle

        def interrupted(installed):
            monkeypatch.setattr(type(installed), "settle", settle)
            raise what

        monkeypatch.setattr(type(inside(engine)), "settle", interrupted)
        with pytest.raises(what):
            engine.generate("hello", max_tokens=3)
        assert engine.generate("hello", max_tokens=3).tokens.tolist() == before


FORKED = """
import os
import outlier_jupyter
engine = outlier_jupyter.load("demo", cache_experts=24, quiet=True)
engine.generate("hello", max_tokens=2)
child = os.fork()
if not child:
    try:
        engine.generate("hello", max_tokens=2)
    except outlier_jupyter.OutlierError as error:
        said = str(error)
    engine.close()
    try:
        outlier_jupyter.load("demo", cache_experts=24, quiet=True)
    except outlier_jupyter.OutlierError as error:
        said = said if "spawn" in str(error) else ""
    os._exit(0 if "forked" in said and engine.closed else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(engine.generate("hello", max_tokens=2).tokens.size)
"""


def test_a_forked_child_neither_runs_nor_loads():
    """Its engine has no threads, and MLX would wait for its own for ever; the parent continues."""
    command = [sys.executable, "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "0\n2\n"), done.stderr


CUT_OFF = """
import sys, threading
import outlier_jupyter
engine = outlier_jupyter.load("demo", cache_experts=24, quiet=True, kernels=sys.argv[1])
begun = threading.Event()

def work():
    if sys.argv[2] == "stream":
        steps = engine.stream("hello", max_tokens=500)
        next(steps)
        begun.set()
        threading.Event().wait()
    while True:
        for step in engine.stream("hello " * 100, max_tokens=500):
            begun.set()

threading.Thread(target=work, daemon=True).start()
begun.wait()
print("exits")
"""


ASLEEP = """
import sys, threading, time
import outlier_jupyter
engine = outlier_jupyter.load("demo", cache_experts=24, quiet=True, kernels=sys.argv[1])
begun = threading.Event()

def work():
    while True:
        if sys.argv[2] == "stream":
            list(engine.stream("hello", max_tokens=4))
        else:
            engine.generate("hello", max_tokens=4)
        begun.set()
        time.sleep(0.01)

threading.Thread(target=work, daemon=True).start()
begun.wait()
print("exits")
"""


@pytest.mark.parametrize("script", [CUT_OFF, ASLEEP], ids=["in the middle", "asleep"])
@pytest.mark.parametrize(("kernels", "what"), [("mlx", "run"), ("auto", "run"), ("mlx", "stream")])
def test_a_process_that_exits_beside_a_daemon_s_runs_ends_in_order(script, kernels, what):
    """Exit stops a run and no other begins; Python would cut it off within MLX, and abort.

    Python ends a sleeping thread, whose MLX data would then be freed without the interpreter.
    """
    done = subprocess.run(
        [sys.executable, "-c", script, kernels, what], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "exits\n"), done.stderr


OPEN_STREAM = """
import outlier_jupyter
engine = outlier_jupyter.load("demo", cache_experts=24, quiet=True)
steps = engine.stream("hello", max_tokens=40)
next(steps)
print("exits")
"""


def test_a_process_that_exits_with_an_open_stream_writes_no_error():
    """What is left of the run is not recorded when the interpreter ends."""
    command = [sys.executable, "-c", OPEN_STREAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "exits\n", "")


LOADED = """
import sys, threading, time
import outlier_jupyter
from tests.inspection import inside
loaded = threading.Event()

def work():
    global engine
    engine = outlier_jupyter.load("demo", cache_experts=24, quiet=True, kernels="mlx")
    loaded.set()
    while sys.argv[1] == "sleeps":
        time.sleep(0.01)

thread = threading.Thread(target=work, daemon=True)
thread.start()
loaded.wait()
if sys.argv[1] == "ends":
    thread.join()
print(engine.generate("hello", max_tokens=4).tokens.size)
"""


@pytest.mark.parametrize("then", ["sleeps", "ends"])
def test_a_process_whose_model_was_loaded_on_a_thread_ends_well(then):
    """This includes a thread that was the first to use MLX."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, then], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


def test_a_thread_s_random_numbers_are_its_own_after_a_run_as_before(tiny):
    """What an engine creates on the thread takes no number of a seeded sequence."""
    found = []

    def work(engine):
        for run in (False, True):
            mx.random.seed(7)
            if run:
                engine.resize(cache_experts=6)
            found.append(mx.random.uniform().item())

    with load(tiny, cache_experts=8) as engine:
        thread = threading.Thread(target=work, args=(engine,))
        thread.start()
        thread.join()
    assert found[0] == found[1]


def test_a_thread_that_ends_in_order_is_gone(tiny):
    """Only a thread that Python cuts off is kept."""
    ids = []

    def work(engine):
        ids.append(threading.get_native_id())
        engine.generate("hello", max_tokens=2)

    with load(tiny, cache_experts=8) as engine:
        thread = threading.Thread(target=work, args=(engine,))
        thread.start()
        thread.join()
    end = time.monotonic() + 60  # Python releases it a little before the system does
    while ids[0] in {each.id for each in psutil.Process().threads()}:
        assert time.monotonic() < end
        time.sleep(0.01)
