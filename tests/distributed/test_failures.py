"""A rank that dies, is stopped, or disagrees ends the run with one error; a slow one is waited for.

The partial run is kept, this process goes on, and no rank is left behind.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import outlier_jupyter
from outlier_jupyter.distributed import rank_group, ranks
from outlier_jupyter.errors import CheckpointChanged, OptionError, RankLost, TraceError
from outlier_jupyter.events import DECODE, PREFILL, CallStarted, Routed
from tests.inspection import change_messages, ranks_of, reader_of
from tests.models import checkpoint

PROMPT, TOKENS = "What is it? " * 3, 12


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint("qwen3_moe", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def engine(model):
    with outlier_jupyter.load(model, hosts=2, cache_experts=3) as engine:
        engine.tokenizer.eos_token_ids = set()
        yield engine


def ended(pid: int) -> bool:
    """Whether no process has this id any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def at_layer(engine, phase: int, act) -> None:
    """Call `act` after the first layer of the second call of a phase (the first of a prompt)."""
    calls: list[int] = []

    def sink(event) -> None:
        if isinstance(event, CallStarted):
            calls.append(event.phase)
        elif event.layer == 0 and calls.count(phase) == (1 if phase == PREFILL else 2):
            act()

    engine.subscribe(sink, CallStarted, Routed)


def run(engine):
    return engine.generate(PROMPT, raw=True, max_tokens=TOKENS, prefill_chunk=64)


@pytest.mark.parametrize("phase", [PREFILL, DECODE])
@pytest.mark.parametrize("number", [0, 1])
def test_a_rank_that_is_killed_ends_the_run(engine, phase, number):
    """The error has its name and how it ended; later runs raise the same, all ranks are gone."""
    pids = ranks_of(engine).pids
    at_layer(engine, phase, lambda: os.kill(pids[number], signal.SIGKILL))
    with pytest.raises(RankLost, match=rf"rank {number} \(localhost\) was ended by SIGKILL"):
        run(engine)
    assert engine.last_run.finish_reason == "error"
    partial = engine.last_run
    assert (len(partial.tokens) > 0) == (phase == DECODE)
    with pytest.raises(RankLost, match=f"rank {number}"):
        run(engine)
    assert engine.last_run is partial
    assert all(ended(pid) for pid in pids)


def test_ranks_that_ended_between_runs_are_shown_as_ended(engine):
    """Status and memory do not fail by it, and count nothing that is gone."""
    run(engine)
    os.kill(ranks_of(engine).pids[1], signal.SIGKILL)
    for _ in range(2):
        status = engine.status()
        assert all(rank.ended and not rank.resident for rank in status.ranks)
        assert "ended; load the model again" in str(status)
    assert engine.memory().ranks == (("localhost", 0, 0), ("localhost", 0, 0))


def test_a_resize_that_one_rank_refuses_changes_none(engine):
    """The others have their earlier size again, and say so."""
    before = run(engine).tokens.tolist()
    sizes = [rank.slots for rank in engine.status().ranks]

    def spoil(messages):
        if messages[0].get("cache_experts") == 2:
            messages[1] = messages[1] | {"cache_experts": None, "cache_gb": 1e-9}
        return messages

    change_messages(ranks_of(engine), spoil)
    with pytest.raises(OptionError, match="rank 1 "):
        engine.resize(cache_experts=2)
    status = engine.status()
    assert [rank.slots for rank in status.ranks] == sizes and status.slots == sum(sizes)
    assert run(engine).tokens.tolist() == before


def test_a_placement_that_is_none_leaves_the_model_before(model):
    """It is found before the engine that is to be replaced is closed."""
    with outlier_jupyter.load(model, cache_experts=3) as before:
        with pytest.raises(TraceError, match="nothing"):
            outlier_jupyter.load(model, hosts=2, placement="nothing.run", replacing=before)
        assert run(before).tokens.size


@pytest.mark.parametrize("phase", [PREFILL, DECODE])
def test_a_rank_that_is_stopped_ends_the_run_in_time(engine, phase, monkeypatch):
    """It answers no ping; the stopped process is ended, too."""
    monkeypatch.setattr(rank_group, "SILENT_S", 4.0)
    pids = ranks_of(engine).pids
    at_layer(engine, phase, lambda: os.kill(pids[1], signal.SIGSTOP))
    with pytest.raises(RankLost, match=r"rank 1 .* has not answered for 4 s"):
        run(engine)
    assert engine.last_run.finish_reason == "error"
    assert all(ended(pid) for pid in pids)


def test_a_suspended_machine_loses_no_rank(engine, monkeypatch):
    """After a sleep of this process the ranks' silence is counted anew; they have answered."""
    expected = run(engine).tokens.tolist()
    monkeypatch.setattr(rank_group, "SILENT_S", 4.0)
    monkeypatch.setattr(rank_group, "STUCK_S", 4.0)
    plain, slept = select.select, []

    def asleep(*waited):
        if slept:
            return plain(*waited)
        slept.append(time.sleep(6.0))
        return [], [], []

    monkeypatch.setattr(rank_group, "select", SimpleNamespace(select=asleep))
    assert run(engine).tokens.tolist() == expected and slept


@pytest.mark.parametrize("phase", [PREFILL, DECODE])
def test_a_slow_rank_is_waited_for(engine, phase):
    """Stopped for a moment, it changes no token; `stop` ends a run, and the ranks go on."""
    expected = run(engine).tokens.tolist()
    pids = ranks_of(engine).pids

    def slow() -> None:
        os.kill(pids[1], signal.SIGSTOP)
        threading.Timer(2.0, os.kill, (pids[1], signal.SIGCONT)).start()

    at_layer(engine, phase, slow)
    assert run(engine).tokens.tolist() == expected
    stopping = engine.subscribe(lambda event: engine.stop(), Routed)
    with pytest.raises(outlier_jupyter.Interrupted):
        run(engine)
    stopping()
    assert run(engine).tokens.tolist() == expected


def test_ranks_that_disagree_or_do_not_get_on_end_the_run(model, monkeypatch):
    """One that computes something else; and one that answers pings, but is never done."""
    with outlier_jupyter.load(model, hosts=2, cache_experts=3) as engine:
        monkeypatch.setattr(ranks, "check_word", lambda *call: 5)
        with pytest.raises(RankLost, match=r"rank 0 .* disagrees"):
            run(engine)
    monkeypatch.undo()
    with outlier_jupyter.load(model, hosts=2, cache_experts=3) as engine:
        monkeypatch.setattr(rank_group, "STUCK_S", 0.0)
        monkeypatch.setattr(rank_group, "PING_S", 0.2)
        at_layer(engine, DECODE, lambda: os.kill(ranks_of(engine).pids[1], signal.SIGSTOP))
        with pytest.raises(RankLost, match="has not got on for 0 s"):
            run(engine)


def test_a_rank_s_error_is_the_user_s_and_ends_no_rank(model, tmp_path, monkeypatch):
    """A cache too small for an expert, and a file that was written to: the ranks go on."""
    folder = tmp_path / "model"
    subprocess.run(["cp", "-r", str(model), str(folder)], check=True)
    with outlier_jupyter.load(folder, hosts=2, cache_experts=3) as engine:
        expected = run(engine).tokens.tolist()
        with pytest.raises(OptionError, match="rank 0 "):
            engine.resize(cache_gb=1e-9)
        assert engine.resize(cache_experts=2).slots == 4
        assert run(engine).tokens.tolist() == expected
        shard = next(folder.glob("*.safetensors"))
        os.utime(shard, ns=(1, 1))
        monkeypatch.setattr(reader_of(engine), "changed", lambda *files: "")
        with pytest.raises(CheckpointChanged, match=r"rank 0 .* load the model again"):
            run(engine)
        assert not any(ended(pid) for pid in ranks_of(engine).pids)


def test_ranks_end_with_the_process_that_drives_them(model):
    """Killed without a word, it leaves none behind."""
    code = f"""
import outlier_jupyter, time
from tests.inspection import ranks_of
engine = outlier_jupyter.load({str(model)!r}, hosts=2, cache_experts=3)
print(*ranks_of(engine).pids, flush=True)
time.sleep(300)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(each) for each in process.stdout.readline().split()]
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while not all(ended(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert len(pids) == 2 and all(ended(pid) for pid in pids)
