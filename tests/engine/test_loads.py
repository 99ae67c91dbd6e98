"""The process's exit waits for loads of daemon threads, and they go no further."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from outlier_jupyter.engine.loads import Loads

LEFT = """
import sys, threading, time
import outlier_jupyter
act, seconds = sys.argv[1], float(sys.argv[2])
def work():
    if act == "load": outlier_jupyter.load("demo", cache_experts=24, quiet=True, kernels="mlx")
    else: outlier_jupyter.plan("demo")
threading.Thread(target=work, daemon=True).start()
time.sleep(seconds)
print("exits")
"""


@pytest.mark.parametrize(("act", "seconds"), [("load", 0.05), ("load", 0.15), ("plan", 0.03)])
def test_a_process_ends_well_in_the_middle_of_a_daemon_s_load(act, seconds):
    """Python would cut the thread off within MLX's code, which aborts the process."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT, act, str(seconds)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "exits\n", "")


def test_at_exit_a_daemon_s_load_waits_at_its_next_check_and_is_no_longer_under_way():
    """So does a load that begins then; the exit waits for neither."""
    loads, begun, further = Loads(), threading.Event(), threading.Event()
    beyond: list[str] = []

    def load(name: str, wait: bool) -> None:
        with loads.one():
            if wait:
                begun.set()
                further.wait()
            loads.check()
            beyond.append(name)

    threading.Thread(target=load, args=("first", True), daemon=True).start()
    begun.wait()
    ended = threading.Thread(target=loads.end, args=(60,))
    ended.start()
    ended.join(0.05)
    assert ended.is_alive()
    further.set()
    ended.join(60)
    assert not ended.is_alive()
    late = threading.Thread(target=load, args=("second", False), daemon=True)
    late.start()
    late.join(0.05)
    assert late.is_alive() and beyond == []


def test_a_load_of_the_main_thread_goes_on_at_exit_and_a_failed_one_is_over():
    """An exit's own handlers may load; what was raised is not waited for."""
    loads = Loads()
    with pytest.raises(ValueError), loads.one():
        raise ValueError
    loads.end(60)
    with loads.one(), loads.one():
        loads.check()
