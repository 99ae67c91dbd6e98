"""Prefetching changes when bytes are read, and nothing else."""

from __future__ import annotations

import time

import mlx.core as mx
import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter import Trace
from outlier_jupyter.errors import ReadFailed
from outlier_jupyter.events import PagedIn, Prefetched, Waited
from outlier_jupyter.options import LoadOptions
from outlier_jupyter.paging.fetch import LARGE
from outlier_jupyter.paging.lookahead import (
    LEAST_USED,
    RETRY_EVERY,
    STAGING_SLOTS,
    TRIALS,
    Lookahead,
    RankFilter,
    wanted,
)
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.residency.policies import make_policy
from outlier_jupyter.residency.slot_table import SlotTable
from outlier_jupyter.runs.run import Interrupted
from outlier_jupyter.testing import EventLog, FaultyReader, PausedReader
from tests.inspection import delay_prefetches, dropped_prefetches, pager_of, prefetches
from tests.models import checkpoint

SAME = ("tokens", "experts", "hits", "evictions", "resident_at_start")
KEYS = [ExpertKey(1, expert) for expert in range(8)]


@pytest.fixture
def engine(tiny):
    with outlier_jupyter.load(tiny, cache_experts=6, lookahead="on") as engine:
        yield engine


def parts(engine):
    """The pager, a sink that records every event, and the switches of layers 0 and 1."""
    pager = pager_of(engine)
    pager.sink = EventLog()
    return pager, pager.sink, *(layer.mlp.switch_mlp for layer in engine.model.layers[:2])


def until(true):
    """Wait until a condition that another thread changes is true."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.001)


def early(log):
    return [event for event in log.events if isinstance(event, Prefetched)]


def ids(*experts):
    return mx.array(np.array(experts, np.uint32)[None, None])


def a_token():
    return mx.array(np.random.default_rng(0).normal(size=(1, 1, 64)).astype(np.float32))


@pytest.mark.parametrize("kernels", ["auto", "mlx"])
def test_tokens_and_resident_experts_are_the_same(kernels, tiny):
    """At every cache size a run has the same tokens, hits, evictions and reads."""
    count = 0
    for slots in (1, 5, 23):
        runs = []
        for lookahead in ("on", "off"):
            with outlier_jupyter.load(
                tiny, cache_experts=slots, kernels=kernels, lookahead=lookahead
            ) as engine:
                run = engine.generate("look ahead", max_tokens=24, temperature=1.0, seed=3)
                pager_of(engine).table.check()
                runs.append(run.trace)
        on, off = runs
        for name in SAME:
            assert np.array_equal(getattr(on, name), getattr(off, name)), name
        for name in ("step", "layer", "expert", "nbytes"):
            assert np.array_equal(on.reads[name], off.reads[name]), name
        assert not len(off.prefetched)
        count += on.prefetched["used"].sum()
        among = {tuple(row) for row in on.reads[["step", "layer", "expert"]].tolist()}
        used = on.prefetched[on.prefetched["used"] == 1]
        assert {tuple(row) for row in used[["step", "layer", "expert"]].tolist()} <= among
    assert count > 20


@pytest.mark.parametrize(
    "model_type", ["qwen3_moe", "deepseek_v3", "gpt_oss", "lfm2_moe", "minimax", "mixtral"]
)
def test_a_router_predicts_its_own_choice_from_its_own_input(model_type, tmp_path, monkeypatch):
    """The control: with the router's real input the prediction is its choice, at every token."""
    folder = checkpoint(model_type, tmp_path / "model")
    repeated = []

    def learn(self, x, ids, outcomes, whole=Lookahead.learn):
        whole(self, x, ids, outcomes)
        repeated.append(sorted(self.ranked(x).tolist()) == sorted(ids.ravel().tolist()))

    monkeypatch.setattr(Lookahead, "learn", learn)
    with outlier_jupyter.load(folder, cache_experts=4, lookahead="on") as engine:
        engine.generate("control", raw=True, max_tokens=10)
    assert len(repeated) >= 10 and all(repeated)


@pytest.mark.parametrize("model_type", ["longcat_flash", "nemotron_h", "afmoe"])
def test_a_router_that_answers_otherwise_is_left_alone(model_type, tmp_path):
    """Invalid ids, a width other than the router's, or grouped ids: nothing is predicted."""
    folder = checkpoint(model_type, tmp_path / "model")
    with outlier_jupyter.load(folder, cache_experts=4, lookahead="on") as engine:
        run = engine.generate("no", raw=True, max_tokens=16)
    assert run.trace.layers > 1 and not len(run.trace.prefetched)


def test_a_changed_top_k_is_followed(tiny):
    """With top-k overridden by a smaller one, a prediction of more ranks handles fewer experts."""
    with outlier_jupyter.load(tiny, cache_experts=2, lookahead="on") as engine:
        engine.generate("as it is", raw=True, max_tokens=14)
        ahead = engine.model.layers[0].mlp.switch_mlp.paged.next_lookahead
        fewer, whole = ahead.k, ahead.ranked
        ahead.ranked = lambda x: whole(x)[: fewer - 1]
        run = engine.generate("with fewer", raw=True, max_tokens=8)
    assert len(run.tokens) == 8 and ahead.usable and len(run.trace.prefetched)


def test_the_state_is_put_under_the_next_norm(engine):
    """Where two layers have the same hidden state, the prediction for the second is its choice."""
    ahead = engine.model.layers[0].mlp.switch_mlp.paged.next_lookahead
    ahead.k = 2
    first, second = (layer.post_attention_layernorm for layer in engine.model.layers[:2])
    first.weight, second.weight = mx.random.normal((64,)), mx.random.normal((64,))
    state = a_token()
    guess = ahead.ranked(ahead.scaled(first(state)))
    assert guess.tolist() == ahead.ranked(second(state)).tolist()
    others = {tuple(ahead.ranked(first(state)).tolist()), tuple(ahead.ranked(state).tolist())}
    assert others != {tuple(guess.tolist())}


def test_a_prefetch_begins_before_its_layer_is_called(engine):
    """It is under way when the previous layer returns; the lookup waits only for the remainder."""
    pager, log, first, second = parts(engine)
    pager.acquire([ExpertKey(0, 0), ExpertKey(0, 1)])
    ahead, x = first.paged.next_lookahead, a_token()
    ahead.k, ahead.trials = 2, TRIALS
    chosen = ahead.ranked(ahead.scaled(x)).tolist()
    paused = pager.reader = PausedReader(pager.reader)
    first(x, ids(0, 1))
    until(lambda: paused.waiting)
    assert "ReadEarly" not in log.kinds() and not any(key.layer == 1 for key in pager.table)
    paused.release()
    until(lambda: all(e.future.done() for e in prefetches(pager).values()))
    before, looked_up_ns = paused.reads, pager.clock()
    second(x, ids(*chosen))
    assert paused.reads == before
    assert early(log) == [Prefetched(1, e, pager.bank.expert_nbytes, True) for e in chosen]
    came = [event for event in log.events if isinstance(event, PagedIn) and event.layer == 1]
    assert [event.expert for event in came] == sorted(chosen)
    assert all(event.start_ns < looked_up_ns for event in came)
    assert [event.layer for event in log.events if isinstance(event, Waited)][-1] == 1


def test_it_is_not_begun_while_anything_else_is_read(engine):
    """Nothing is prefetched while another read is under way, a dropped one included."""
    pager, log, *_ = parts(engine)
    paused = pager.reader = PausedReader(pager.reader)
    with pager.fetch([ExpertKey(0, 0)]):
        assert pager.prefetch(KEYS[:2]) == []
        paused.release()
    assert len(pager.prefetch(KEYS[:2])) == 2
    until(lambda: all(e.future.done() for e in prefetches(pager).values()))
    paused = pager.reader = PausedReader(pager.reader.inner)
    assert pager.prefetch(KEYS[2:3]) == KEYS[2:3]
    until(lambda: paused.waiting)
    pager.resolve_prefetched([])
    assert pager.prefetch(KEYS[4:5]) == []
    paused.release()
    until(lambda: paused.done and not paused.waiting and pager.prefetch(KEYS[4:5]))
    pager.drop_prefetched()
    assert sum(event.used for event in early(log)) == 0 and len(early(log)) == 3


def test_slots_change_hands_and_none_in_use_is_written(engine):
    """A used prefetch swaps its staging slot with the reserved slot; the bank's bytes are right."""
    pager, _, _, second = parts(engine)
    x, rng = a_token(), np.random.default_rng(1)
    wanted_of = {}
    for expert in range(8):
        wanted_of[expert] = np.array(second(x, ids(expert)))
    staging = pager.table.staging
    for _ in range(60):
        guessed, chosen = rng.permutation(8)[:3].tolist(), rng.permutation(8)[:2].tolist()
        pager.prefetch([ExpertKey(1, expert) for expert in guessed])
        found = np.array(second(x, ids(*chosen)))
        for place, expert in enumerate(chosen):
            assert np.array_equal(found[..., place, :], wanted_of[expert][..., 0, :])
        pager.table.check()
    assert pager.table.staging != staging and len(pager.table.staging) == STAGING_SLOTS
    engine.resize(cache_experts=3)
    engine.resize(cache_experts=9)
    pager.table.check()
    assert pager.table.staging == frozenset(range(9, 9 + STAGING_SLOTS))
    assert pager.bank.slots == 9 + STAGING_SLOTS
    for expert in range(8):
        assert np.array_equal(np.array(second(x, ids(expert))), wanted_of[expert])


def test_a_failed_prefetch_is_read_again(engine):
    """A failed prefetch raises nothing; if a lookup takes the read over, it is retried once."""
    pager, log, _, _ = parts(engine)
    whole = pager.reader
    pager.reader = FaultyReader(whole, lambda where: True)
    assert pager.prefetch(KEYS[:1])
    until(lambda: prefetches(pager)[KEYS[0]].failed)
    pager.reader = whole
    pager.resolve_prefetched(KEYS[:1])
    assert pager.acquire(KEYS[:1]) and early(log) == [Prefetched(1, 0, 0, False)]

    pager.reader = FaultyReader(whole, lambda where: once.pop() if once else False)
    once = [True]
    taken: list[bool] = []
    delay_prefetches(pager, lambda: until(lambda: taken))
    assert pager.prefetch(KEYS[1:2])
    pager.resolve_prefetched(KEYS[1:2])
    taken.append(True)
    assert KEYS[1] in pager.acquire(KEYS[1:2]) and not once

    pager.reader = FaultyReader(whole, lambda where: True)
    taken.clear()
    assert pager.prefetch(KEYS[2:3])
    pager.resolve_prefetched(KEYS[2:3])
    taken.append(True)
    with pytest.raises(ReadFailed):
        pager.acquire(KEYS[2:3])
    pager.table.check()
    pager.reader = whole
    assert KEYS[2] in pager.acquire(KEYS[2:3])


def test_stop_and_close_leave_nothing_being_read(tiny):
    """A stopped run and a closed engine wait for prefetches under way."""
    engine = outlier_jupyter.load(tiny, cache_experts=4, lookahead="on")
    pager = pager_of(engine)
    begun = []

    def prefetch(keys, whole=pager.prefetch):
        begun.extend(whole(keys))
        if begun:
            engine.stop()
        return begun

    pager.prefetch = prefetch
    with pytest.raises(Interrupted):
        engine.generate("stop me", max_tokens=50)
    assert begun and not prefetches(pager) and not dropped_prefetches(pager)
    pager.table.check()
    del pager.prefetch
    assert pager.prefetch(KEYS[:2])
    engine.close()
    assert pager.prefetch(KEYS[3:4]) == []


def test_ranks_that_are_seldom_used_are_left_out():
    """A rank that is seldom used is not prefetched, is tried again, and can come back."""
    kept = RankFilter()
    tries = 0
    for _ in range(10 * RETRY_EVERY):
        for rank in kept.ranks(2):
            tries += rank == 1
            kept.record(rank, used=rank == 0)
    assert tries <= 10 + 10 and kept.ranks(2) == [0]
    for _ in range(10):
        kept.record(1, used=True)
    assert kept.share(1) >= LEAST_USED and kept.ranks(2) == [0, 1]


def test_no_prediction_is_made_where_nearly_all_is_resident():
    """Predictions with nothing to read stop, but for occasional probes; one used read resumes."""
    kept, guesses = RankFilter(), 0
    for _ in range(10 * RETRY_EVERY):
        if kept.ranks(2):
            guesses += 1
            kept.record_prediction(False)
    assert 10 < guesses < 40
    kept.record_prediction(True)
    assert kept.ranks(2) == [0, 1]


def test_a_layer_with_useless_predictions_prefetches_nothing(tiny, monkeypatch):
    """With a router that returns the least likely experts, most of a long run goes without."""
    right = Lookahead.ranked

    def worst(self, x):
        if self.trials < TRIALS:
            return right(self, x)
        logits = np.array(self.router.matrix(x).astype(mx.float32)).reshape(-1)
        return np.argsort(logits)[: self.k]

    monkeypatch.setattr(Lookahead, "ranked", worst)
    with outlier_jupyter.load(tiny, cache_experts=2, lookahead="on") as engine:
        run = engine.generate("useless", max_tokens=60)
    half = run.trace.prefetched["step"] > run.trace.steps - 30
    assert len(run.trace.prefetched) > 4 and half.sum() < (~half).sum() / 2


def test_lookahead_is_used_where_the_options_say():
    """Default: only for large experts that compiled kernels compute; on: for any; off: for none."""
    for kernels, nbytes, found in (("auto", LARGE, True), ("mlx", LARGE, False),
                                   ("auto", LARGE - 1, False)):  # fmt: skip
        assert wanted(LoadOptions(lookahead="auto", kernels=kernels), nbytes) == found
        assert wanted(LoadOptions(lookahead="on", kernels=kernels), nbytes)
        assert not wanted(LoadOptions(lookahead="off", kernels=kernels), nbytes)


def test_staging_slots_are_within_the_given_memory(tiny):
    """With `cache_gb` they count towards the cache; the bank's size includes all slots."""
    nbytes = 0
    with outlier_jupyter.load(tiny, cache_experts=12) as engine:
        nbytes = engine.memory().experts
    with outlier_jupyter.load(tiny, cache_gb=nbytes / 1e9, lookahead="on") as engine:
        assert engine.memory().experts == nbytes
        assert engine.info.slots == 12 - STAGING_SLOTS


def test_waste_is_reported_and_saved(tiny, tmp_path):
    """The summary has prefetched, used and wasted reads; a saved trace has the same."""
    with outlier_jupyter.load(tiny, cache_experts=2, lookahead="on") as engine:
        run = engine.generate("waste", max_tokens=30)
    summary, rows = run.summary(), run.trace.prefetched
    assert summary.prefetched == len(rows) > summary.prefetched_used == rows["used"].sum() > 0
    size = run.trace.info.expert_nbytes[0]
    assert summary.prefetched_wasted_bytes == size * (len(rows) - summary.prefetched_used)
    assert f"prefetched: {len(rows)}, used {summary.prefetched_used}, wasted" in str(summary)
    loaded = Trace.load(run.trace.save(tmp_path / "early.safetensors"))
    assert np.array_equal(loaded.prefetched, rows) and loaded.info.absent == run.trace.info.absent


def test_a_table_tracks_its_staging_slots():
    """After exchanges, compaction and resizes each slot is in one state."""
    table = SlotTable(3, make_policy("lru", (8, 8, 8)), staging=2)
    for expert, slot in ((0, 3), (1, None), (2, 4)):
        (placement,) = table.reserve([ExpertKey(0, expert)]).placements
        if slot is not None:
            placement = table.exchange(placement, slot)
        table.check()
        table.commit(placement)
    assert len(table.staging & {0, 1, 2}) == 2
    moves = table.compact()
    assert len(moves) == 2 and {origin for origin, _ in moves} == {3, 4}
    table.check()
    assert table.staging == {3, 4}
    table.shrink(2)
    table.check()
    table.grow(5)
    table.check()
    assert table.staging == {5, 6}
