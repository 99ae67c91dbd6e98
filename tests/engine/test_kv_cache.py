"""KV caches of interrupted runs keep exactly the tokens that every layer has read."""

from __future__ import annotations

import pytest

import outlier_jupyter
from outlier_jupyter.events import Routed, StepDone
from outlier_jupyter.runs.run import Interrupted
from outlier_jupyter.testing import FaultyReader
from tests.inspection import pager_of

QUESTION = "What is an expert, and who picks it?"


@pytest.fixture
def engine(tiny):
    with outlier_jupyter.load(tiny, cache_experts=8) as engine:
        engine.tokenizer.eos_token_ids = set()
        yield engine


def stop_in(engine, calls: int, layer: int) -> None:
    """Stop the run after `calls` more calls, behind that layer's router."""
    done = []

    def listen(event):
        if isinstance(event, StepDone):
            done.append(event)
        if isinstance(event, Routed) and len(done) == calls and event.layer == layer:
            engine.stop()
            unsubscribe()

    unsubscribe = engine.subscribe(listen)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("calls", [1, 2, 5])
def test_a_run_stopped_between_two_layers_is_gone_on_from(engine, layer, calls):
    """Layers that were one call ahead are rolled back: the same text, almost nothing is read."""
    whole = engine.generate(QUESTION, max_tokens=8)
    stop_in(engine, calls, layer)
    with pytest.raises(Interrupted):
        engine.generate(QUESTION, max_tokens=8, reuse_kv=True, prefill_chunk=16)
    read = int(engine.last_run.trace.info.options["prefill_chunk"])  # at least one chunk
    again = engine.generate(QUESTION, max_tokens=8, reuse_kv=True)
    assert again.text == whole.text
    prompt = (whole.trace.phase == 0).sum()
    assert (again.trace.phase == 0).sum() <= max(1, prompt - read)


def test_a_run_that_failed_is_gone_on_from(engine):
    """A read that fails during a call loses only that call."""
    whole = engine.generate(QUESTION, max_tokens=8)
    pager = pager_of(engine)
    reader = pager.reader
    faulty = FaultyReader(reader, lambda where: faulty.reads > 300)
    pager.reader = faulty
    with pytest.raises(outlier_jupyter.OutlierError, match="made to fail"):
        engine.generate(QUESTION, max_tokens=100, reuse_kv=True)
    pager.reader = reader
    again = engine.generate(QUESTION, max_tokens=8, reuse_kv=True)
    assert again.text == whole.text and (again.trace.phase == 0).sum() == 1


def test_a_stop_before_anything_was_read_keeps_nothing(engine):
    """The next run reads the whole prompt."""
    whole = engine.generate(QUESTION, max_tokens=3)
    stop_in(engine, 0, 0)
    with pytest.raises(Interrupted):
        engine.generate(QUESTION, max_tokens=3, reuse_kv=True)
    again = engine.generate(QUESTION, max_tokens=3, reuse_kv=True)
    assert again.text == whole.text
    assert (again.trace.phase == 0).sum() == (whole.trace.phase == 0).sum()
