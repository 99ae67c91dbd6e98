"""What an interrupt leaves behind: nothing that stops later work."""

from __future__ import annotations

import signal
import time

import pytest

import outlier_jupyter
from outlier_jupyter.system.interrupt import Interrupts, within
from tests.interrupting import lines_of, python_s_handler


def test_a_noted_interrupt_ends_with_its_block_also_where_the_next_ignores_them():
    """A kernel ignores SIGINT between two cells: work there is not stopped by an earlier one."""
    interrupts = Interrupts()
    with python_s_handler():
        with interrupts:
            signal.raise_signal(signal.SIGINT)
        assert interrupts.noted
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with interrupts:
            assert not interrupts.noted


def test_a_run_after_an_interrupted_one_runs_where_interrupts_are_ignored(tiny):
    """As an awaited run on a kernel's event loop, between two cells."""
    with outlier_jupyter.load(tiny, cache_experts=5, quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        unsubscribe = engine.subscribe(lambda event: signal.raise_signal(signal.SIGINT))
        with python_s_handler():
            with pytest.raises(KeyboardInterrupt):
                engine.generate("a", max_tokens=3)
            unsubscribe()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            assert engine.generate("a", max_tokens=3).generated == 3


def test_a_block_that_waits_is_not_one_that_computes_for_long():
    """A bound counts the thread's CPU time, so a busy machine ends nothing early."""
    with within(0.05, RuntimeError):
        time.sleep(0.3)
    with pytest.raises(RuntimeError), within(0.05, RuntimeError):
        while True:
            pass


def test_a_bound_ends_with_its_block_wherever_that_is_interrupted():
    """Nothing is raised later, in what the thread does then."""

    def bounded():
        with within(0.02, RuntimeError):
            pass

    with python_s_handler():
        for at in range(lines_of(bounded)):
            with pytest.raises(KeyboardInterrupt):
                lines_of(bounded, {at})
            end = time.thread_time() + 0.06
            while time.thread_time() < end:
                pass
