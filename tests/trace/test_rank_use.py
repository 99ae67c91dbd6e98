"""A trace has the rank of each read and the time of each rank; views say who was late."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import nan

import numpy as np
import pytest

from outlier_jupyter import Trace
from outlier_jupyter.errors import TraceError
from outlier_jupyter.events import (
    DECODE,
    CallStarted,
    Event,
    PagedIn,
    RanksServed,
    Routed,
    StepDone,
)
from outlier_jupyter.trace import TraceInfo
from outlier_jupyter.trace.rank_use import RankCounts, highest, rank_counts
from outlier_jupyter.trace.recorder import Recorder

OWNERS = [np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0])]
INFO = TraceInfo(
    layer_names=("a", "b"), experts_per_layer=(4, 4), expert_nbytes=(10, 10), slots=4,
    hosts=("here", "there"), kernels="cpu", banks=(0, 0), policy="lru",
)  # fmt: skip


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def events() -> Iterator[Event]:
    """Two tokens: the first reads an expert of each rank in each layer, the second hits."""
    for token in range(2):
        yield CallStarted(DECODE, np.array([token], np.int32), 0)
        for layer, owners in enumerate(OWNERS):
            ids = np.array([[0, 1]], np.int32)
            yield Routed(layer, ids, np.full((1, 2), token > 0), 1, 1)
            for expert in () if token else (0, 1):
                rank = int(owners[expert])
                ns = 4_000_000 if rank else 1_000_000
                yield PagedIn(layer, expert, 2 * rank, 10, 5, ns, rank)
            ns = numbers(3_000_000, 2_000_000) if token else numbers(1_500_000, 4_500_000)
            hits = numbers(token, token)
            resident = numbers(1, 1) * (layer + 1 if token == 0 else 2)
            yield RanksServed(layer, ns, hits, numbers(1, 1), resident, owners)
        yield StepDone(token, 12_000_000, 0)


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Of these events."""
    record = Recorder(2, 2, np.zeros((0, 2), np.int16))
    for event in events():
        record(event)
    return record.trace(INFO)


def test_the_rank_of_each_read_is_recorded_and_saved(trace, tmp_path):
    """With the owner of each expert and the time of each rank in each layer of each call."""
    assert trace.reads["rank"].tolist() == [0, 1, 1, 0]
    assert trace.owners.tolist() == [owners.tolist() for owners in OWNERS]
    assert trace.rank_us[0].tolist() == [[1500, 4500], [1500, 4500]]
    assert trace.to_pandas("reads")["rank"].tolist() == [0, 1, 1, 0]
    loaded = Trace.load(trace.save(tmp_path / "ranks.safetensors"))
    for name in ("reads", "owners", "rank_us"):
        assert np.array_equal(getattr(loaded, name), getattr(trace, name))
    assert loaded.info.hosts == ("here", "there")


@pytest.mark.parametrize(
    "change",
    [
        {"info": replace(INFO, hosts=())},
        {"info": replace(INFO, hosts=("one",))},
        {"info": replace(INFO, hosts=("x",) * 65)},
        {"owners": np.full((2, 4), 2, np.int16)},
        {"owners": np.zeros((2, 3), np.int16)},
        {"rank_us": np.zeros((2, 2, 3), np.int32)},
        {"rank_us": np.full((2, 2, 2), -1, np.int32)},
    ],
)
def test_ranks_that_do_not_fit_are_refused(trace, tmp_path, change):
    """Fewer hosts than ranks, too many, owners that do not exist, and other shapes."""
    file = replace(trace, **change).save(tmp_path / "bad.safetensors")
    with pytest.raises(TraceError, match="not a valid trace"):
        Trace.load(file)


def test_each_rank_s_use_is_counted(trace):
    """Hits of its own experts, what it has in RAM, its reads, and how long it was waited for."""
    here, there = rank_counts(trace).uses
    assert (here.hits, here.lookups, here.resident, here.resident_nbytes) == (2, 4, 2, 20.0)
    assert (here.nbytes, here.read_ms, there.read_ms) == (20, 1.0, 4.0)
    assert (here.awaited_ns, there.awaited_ns) == (6_000_000, 9_000_000)
    assert there.words.startswith(
        "50 % hits, prompt included, 20 B in RAM, 20 B in 2 reads of 4 ms"
    )
    assert there.words.endswith("waited for 60 % of the ranks’ time")


def test_a_view_of_the_events_and_one_of_the_trace_agree(trace):
    """Names, words, the course of the reads, and owners."""
    counts = RankCounts(INFO)
    for event in events():
        if isinstance(event, CallStarted | PagedIn | RanksServed | StepDone):
            counts(event)
    assert counts.shown() == rank_counts(trace).shown()
    assert [each["name"] for each in counts.shown()["ranks"]] == ["rank 0 (here)", "rank 1 (there)"]


@pytest.mark.parametrize(
    ("course", "shown"),
    [([], []), ([1.0, nan], [1.0, None]), ([nan] * 128 + [3.0] * 128, [None] * 32 + [3.0] * 32)],
)
def test_a_long_course_is_shown_by_the_highest_of_neighbours(course, shown):
    """Tokens without a read are gaps."""
    assert highest(course) == shown


def test_a_run_of_one_process_has_no_ranks(trace):
    """Nothing is counted, and nobody is waited for."""
    alone = replace(trace, owners=np.zeros((0, 0), np.int16), rank_us=np.zeros((0, 0, 0), np.int32))
    assert not rank_counts(alone).uses and not rank_counts(alone).shown()
    assert not alone.explain(0).ranks and "Ranks:" not in str(alone.explain(0))


def test_explain_says_which_rank_was_waited_for(trace):
    """The rank that was last, how long, and in how many layers."""
    assert [each.rank for each in trace.explain(0).ranks] == [1, 0]
    assert "rank 1 (there) was waited for: 9 of the 9 ms" in str(trace.explain(0))
    assert "it was the last in 2 of 2 layers" in str(trace.explain(0))
    assert "rank 0 (here) was waited for: 6 of the 6 ms" in str(trace.explain(1))
