"""After any failed read every slot is valid and the engine can run again."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from mlx_lm import load as load_unpaged

import outlier_jupyter
from outlier_jupyter.errors import EngineClosed, OptionError, ReadFailed, UnsupportedModel
from outlier_jupyter.events import Waited
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.testing import EventLog, FakeClock, FaultyReader
from tests.inspection import inside, pager_of, reads_on_threads
from tests.paging.test_exact import logits, prompt


@pytest.fixture
def engine(tiny):
    with outlier_jupyter.load(tiny, cache_experts=6) as engine:
        yield engine


def test_what_is_acquired_is_what_the_file_holds(engine):
    """Every byte of every tensor in a slot equals the checkpoint's."""
    pager = pager_of(engine)
    keys = [ExpertKey(1, 3), ExpertKey(2, 7), ExpertKey(0, 0)]
    for key, slot in pager.acquire(keys).items():
        for part in inside(engine).switches[key.layer].parts:
            file, offset, nbytes = part.at(key.expert)
            assert bytes(pager.bank.row(part.name, slot)) == file.read_bytes()[offset:][:nbytes]


def test_misses_are_read_and_hits_are_not(engine):
    """A second request for the same experts reads nothing."""
    pager = pager_of(engine)
    log = pager.sink = EventLog()
    keys = [ExpertKey(0, 1), ExpertKey(0, 2)]
    pager.acquire(keys)
    assert log.kinds() == ["PagedIn", "PagedIn", "Waited"]
    log.events.clear()
    pager.acquire(keys)
    assert log.kinds() == []


def test_a_failed_read_frees_its_slot_and_the_next_request_succeeds(engine):
    """One expert's read fails: the others stay resident, nothing leaks, and a retry works."""
    pager = pager_of(engine)
    bad = inside(engine).switches[0].parts[0].at(2)
    pager.reader = FaultyReader(pager.reader, lambda where: where == bad)
    with pytest.raises(ReadFailed, match="made to fail"):
        pager.acquire([ExpertKey(0, expert) for expert in range(4)])
    pager.table.check()
    assert set(pager.table) == {(0, 0), (0, 1), (0, 3)}
    pager.reader.fails = lambda where: False
    assert len(pager.acquire([ExpertKey(0, expert) for expert in range(4)])) == 4


def test_a_run_that_fails_half_way_leaves_the_engine_exact(engine, tiny):
    """After a read error during a run the partial run is kept and the next logits are exact."""
    pager = pager_of(engine)
    reader = pager.reader
    faulty = FaultyReader(reader, lambda where: faulty.reads > 200)
    pager.reader = faulty
    with pytest.raises(ReadFailed):
        engine.generate("fail in the middle", max_tokens=100)
    assert engine.last_run.finish_reason == "error"
    assert engine.last_run.trace.steps > 0
    pager.reader = reader
    reference, _ = load_unpaged(str(tiny))
    assert np.array_equal(logits(engine.model, prompt(40)), logits(reference, prompt(40)))


def test_a_closed_engine_says_so(tiny):
    """Generating with a closed engine, or calling its model, raises one clear error."""
    engine = outlier_jupyter.load(tiny, cache_experts=6)
    engine.close()
    with pytest.raises(EngineClosed, match="load the model again"):
        engine.generate("too late")
    with pytest.raises(EngineClosed, match="load the model again"):
        engine.model(__import__("mlx.core").core.array([[1, 2]]))


def test_a_cache_too_small_for_one_expert_is_refused_with_the_least_that_works(tiny):
    """The message names a cache_gb, and that cache_gb works."""
    with pytest.raises(OptionError, match="too small for even one expert") as refused:
        outlier_jupyter.load(tiny, cache_gb=1e-9)
    least = float(str(refused.value).split("cache_gb=")[1].split()[0])
    outlier_jupyter.load(tiny, cache_gb=least).close()


def test_a_checkpoint_without_the_experts_names_the_tensor(tiny, tmp_path):
    """A model with other expert tensor names is refused; the error names the first missing one."""
    from safetensors.numpy import load_file, save_file

    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    save_file(
        {n: t for n, t in tensors.items() if "switch_mlp" not in n},
        tmp_path / "model-0.safetensors",
    )
    with pytest.raises((UnsupportedModel, ValueError), match="switch_mlp"):
        outlier_jupyter.load(tmp_path)


def test_tiny_experts_are_read_on_the_calling_thread(tiny):
    """A read shorter than a thread's wake-up uses no thread; its time is reported as waiting."""
    clock, log, threads = FakeClock(), EventLog(), set()

    def slow(where):
        threads.add(threading.get_ident())
        clock.now += 5_000

    with outlier_jupyter.load(tiny, cache_experts=5, reader="pread", clock=clock) as engine:
        pager = pager_of(engine)
        reader = pager.reader = FaultyReader(pager.reader, slow)
        pager.sink = log
        pager.acquire([ExpertKey(0, 1), ExpertKey(0, 2)])
    assert reader.reads and threads == {threading.get_ident()}
    (waited,) = (event for event in log.events if isinstance(event, Waited))
    assert waited.ns >= 5_000 * reader.reads
    with outlier_jupyter.load(tiny, cache_experts=5, reader="direct") as engine:
        assert reads_on_threads(engine)
