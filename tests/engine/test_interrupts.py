"""Ctrl-C at any moment of a run: the partial run is kept, the engine usable, the next run equal."""

from __future__ import annotations

import os
import signal
import threading
import time
from importlib import import_module

import mlx.core as mx
import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.events import RunDone, StepDone
from outlier_jupyter.runs.run import Interrupted
from tests.interrupting import lines_of, python_s_handler, threads

PROMPT = "What is an expert?"


@pytest.fixture
def small(tiny):
    """Fewer slots than a token needs: every layer reads, evicts and reserves."""
    with outlier_jupyter.load(tiny, cache_experts=5, reader="pread", quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        yield engine


def generated(engine) -> None:
    engine.generate(PROMPT, max_tokens=2, raw=True)


def streamed(engine) -> None:
    for _ in engine.stream(PROMPT, max_tokens=2, raw=True):
        pass


@pytest.mark.parametrize("gap", [1, 3, 40])
@pytest.mark.parametrize("ask", [generated, streamed])
def test_two_interrupts_at_any_moment_lose_nothing(small, ask, gap):
    """SIGINT before one of 120 lines, and again soon after, ends the run with what it made.

    During a run it raises Interrupted; before a run and after it, a plain KeyboardInterrupt.
    """
    whole = small.generate(PROMPT, max_tokens=2, raw=True)
    lines = lines_of(lambda: ask(small))
    kept = 0
    with python_s_handler():
        for at in np.linspace(0, lines - 1, 120, dtype=int).tolist():
            small.last_run = None
            with pytest.raises(KeyboardInterrupt) as stopped:
                lines_of(lambda: ask(small), {at, at + gap})
            if isinstance(stopped.value, Interrupted):
                run = stopped.value.run
                assert run is small.last_run, at
                assert whole.tokens.tolist()[: run.generated] == run.tokens.tolist(), at
                kept += 1
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, at
            again = small.generate(PROMPT, max_tokens=2, raw=True)
            assert again.tokens.tolist() == whole.tokens.tolist(), at
    assert kept > 90


def test_an_interrupt_between_two_steps_ends_the_run_in_order(small):
    """A KeyboardInterrupt in the body of a loop leaves the partial run and a free engine."""
    with pytest.raises(KeyboardInterrupt):
        for count, _ in enumerate(small.stream(PROMPT, max_tokens=9)):
            if count == 2:
                raise KeyboardInterrupt
    assert small.last_run.finish_reason == "interrupted" and small.last_run.generated == 3
    assert small.generate(PROMPT, max_tokens=2).generated == 2


def test_an_interrupt_that_is_thrown_into_a_stream_is_interrupted(small):
    """`throw` ends the run in the same way as Ctrl-C."""
    steps = small.stream(PROMPT, max_tokens=9)
    next(steps)
    with pytest.raises(Interrupted) as stopped:
        steps.throw(KeyboardInterrupt)
    assert stopped.value.run.generated == 1
    assert small.generate(PROMPT, max_tokens=2).generated == 2


def test_an_interrupt_when_all_is_made_is_not_swallowed(small):
    """The run is complete, and Ctrl-C still raises Interrupted."""

    def press(event):
        signal.raise_signal(signal.SIGINT)

    unsubscribe = small.subscribe(press, RunDone)
    with python_s_handler(), pytest.raises(Interrupted) as stopped:
        small.generate(PROMPT, max_tokens=3)
    unsubscribe()
    assert stopped.value.run.generated == 3 and stopped.value.run.finish_reason == "length"


def test_a_subscriber_that_hangs_can_be_interrupted(small):
    """The second Ctrl-C ends only that call: the run is kept, and RunDone still arrives."""
    received = []

    def hang(event):
        received.append(type(event))
        if isinstance(event, StepDone):
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            threading.Event().wait()

    unsubscribe = small.subscribe(hang, StepDone, RunDone)
    with python_s_handler(), pytest.raises(Interrupted):
        small.generate(PROMPT, max_tokens=5)
    unsubscribe()
    assert received == [StepDone, RunDone]
    assert small.generate(PROMPT, max_tokens=2).generated == 2


def test_the_model_can_be_called_after_a_run_that_was_stopped(small):
    """A stop ends with its run: code of the user's that calls `engine.model` is not stopped."""
    unsubscribe = small.subscribe(lambda event: small.stop(), StepDone)
    with pytest.raises(Interrupted):
        small.generate(PROMPT, max_tokens=3)
    unsubscribe()
    assert small.model(mx.array([[1, 2]])).shape[:2] == (1, 2)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, RuntimeError])
def test_whatever_a_subscriber_raises_stays_there(small, error):
    """KeyboardInterrupt stops the run; any other error is logged, and the run continues."""

    def broken(event):
        raise error

    whole = small.generate(PROMPT, max_tokens=3).tokens.tolist()
    unsubscribe = small.subscribe(broken, StepDone)
    if error is KeyboardInterrupt:
        with pytest.raises(Interrupted):
            small.generate(PROMPT, max_tokens=3)
    else:
        assert small.generate(PROMPT, max_tokens=3).tokens.tolist() == whole
    unsubscribe()
    assert small.generate(PROMPT, max_tokens=3).tokens.tolist() == whole


@pytest.mark.parametrize("gap", [1, 30])
def test_a_resize_is_interrupted_before_or_after_it(small, gap):
    """The cache has either the old size or the new one, and the model agrees with it."""
    whole = small.generate(PROMPT, max_tokens=2, raw=True).tokens.tolist()

    def resized():
        small.resize(cache_experts=8)

    lines = lines_of(resized)
    with python_s_handler():
        for at in np.linspace(0, lines - 1, 40, dtype=int).tolist():
            small.resize(cache_experts=5)
            with pytest.raises(KeyboardInterrupt):
                lines_of(resized, {at, at + gap})
            assert small.status().slots in (5, 8)
            assert small.generate(PROMPT, max_tokens=2, raw=True).tokens.tolist() == whole


def test_a_close_that_is_interrupted_can_be_repeated(tiny):
    """After an interrupt at any point, the next `close` completes."""

    def opened():
        return outlier_jupyter.load(tiny, cache_experts=5, quiet=True)

    lines = lines_of(opened().close)
    with python_s_handler():
        for at in np.linspace(0, lines - 1, 12, dtype=int).tolist():
            engine = opened()
            with pytest.raises(KeyboardInterrupt):
                lines_of(engine.close, {at, at + 2})
            engine.close()
            assert engine.closed


def test_a_repack_leaves_no_thread_after_two_interrupts(tiny, tmp_path, monkeypatch):
    """Threads write to a file that is closed then: a second Ctrl-C waits for them, too."""
    module = import_module("outlier_jupyter.checkpoint.repack")
    read = module.read_expert

    def interrupting(*of):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return read(*of)

    with monkeypatch.context() as patch, python_s_handler():
        patch.setattr(module, "read_expert", interrupting)
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                outlier_jupyter.repack(tiny, tmp_path, quiet=True)
            assert threads() == []
    outlier_jupyter.repack(tiny, tmp_path, quiet=True)
