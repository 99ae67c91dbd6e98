"""A token in compiled code equals one served by Python: logits, events and table, also when reads
fail or an interrupt comes at any layer.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import make_prompt_cache

import outlier_jupyter
from outlier_jupyter.checkpoint import KernelReadable
from outlier_jupyter.checkpoint.readers import PreadReader
from outlier_jupyter.checkpoint.records import Records
from outlier_jupyter.cpu.modules import token_loop
from outlier_jupyter.errors import ReadFailed
from outlier_jupyter.events import Evicted, PagedIn, ResidentLayers, Routed, Served, Waited, Weighed
from outlier_jupyter.paging import Stopped
from outlier_jupyter.paging.record_fetch import QueuedReads
from outlier_jupyter.paging.switch import PagedSwitch
from outlier_jupyter.paging.token_paging import TokenPaging
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.testing import EventLog, FaultyReader
from tests.inspection import inside, kernel_reads_in_flight, pager_of, reader_of
from tests.models import checkpoint

LAYERS, EXPERTS = 3, 8
TOKENS = [7, 61, 200, 33, 7, 90, 14, 155, 3, 61, 44, 128]


@pytest.fixture(scope="module", params=["qwen3_moe", "qwen2_moe"])
def repacked(request, tmp_path_factory):
    """A model without, and one with a shared expert, repacked."""
    folder = checkpoint(request.param, tmp_path_factory.mktemp("token") / request.param)
    outlier_jupyter.repack(folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    """A model whose experts lie as a checkpoint has them."""
    return checkpoint("qwen3_moe", tmp_path_factory.mktemp("stacked") / "model")


@contextmanager
def readable_by_the_kernel():
    """Let the kernel read every file, aligned or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreadReader, "name", "direct")
        patch.setattr(
            PreadReader,
            "kernel_readable",
            lambda self, where: KernelReadable(self._descriptors[where.file], 1),
        )
        yield patch


def load(folder, **options):
    options = {"cache_experts": 6, "reader": "pread", "kernels": "auto", "overlap": "on"} | options
    return outlier_jupyter.load(folder, quiet=True, **options)


def without_times(event):
    """An event as comparable values, without its times."""
    if isinstance(event, Routed):
        return "Routed", event.layer, event.experts.tolist(), event.hits.tolist()
    if isinstance(event, Weighed):
        return "Weighed", event.layer, event.weights.tolist()
    if isinstance(event, Served | Waited):
        return type(event).__name__, event.layer
    if isinstance(event, PagedIn):
        return "PagedIn", *event[:4]
    assert isinstance(event, Evicted | ResidentLayers)
    return event


def decoded(engine, tokens):
    """The logits of each token, and the events of each, as in a run."""
    kv, rows, log = make_prompt_cache(engine.model), [], EventLog()
    tap = inside(engine).tap
    for pager in inside(engine).pagers:
        pager.sink = log
    for token in tokens:
        tap.begin()
        rows.append(np.array(engine.model(mx.array([[token]]), cache=kv)[0, -1]))
        for event in tap.drain():
            for single in event.events() if isinstance(event, ResidentLayers) else (event,):
                log(single)
    pager_of(engine).table.check()
    return np.stack(rows), [without_times(event) for event in log.events]


def ordered(engine):
    """The resident experts, in eviction order."""
    return pager_of(engine).table.order()


@contextmanager
def served_by_python(patch):
    """No compiled code serves a layer."""
    with patch.context() as inner:
        inner.setattr(TokenPaging, "usable", property(lambda self: False))
        yield


@given(
    slots=st.integers(2, EXPERTS * LAYERS),
    policy=st.sampled_from(["lru", "predictive"]),
    overlap=st.sampled_from(["on", "off"]),
    tokens=st.lists(st.integers(0, 255), min_size=4, max_size=24),
    pinned=st.booleans(),
)
def test_tokens_and_events_are_those_of_python(repacked, slots, policy, overlap, tokens, pinned):
    """Bit for bit, at every cache size, from records."""
    options = {"cache_experts": slots, "policy": policy, "overlap": overlap}
    if pinned and slots > 3:
        options["pin"] = ("1:3",)
    with readable_by_the_kernel() as patch:
        compare(patch, repacked, tokens, options)


@given(
    slots=st.integers(2, EXPERTS * LAYERS),
    reader=st.sampled_from(["pread", "direct", "mmap"]),
    overlap=st.sampled_from(["on", "auto"]),
    tokens=st.lists(st.integers(0, 255), min_size=4, max_size=24),
)
def test_tensors_are_read_as_in_python(stacked, slots, reader, overlap, tokens):
    """Without records: by the kernel through the page cache or past it, by threads, or mapped."""
    with pytest.MonkeyPatch.context() as patch:
        options = {"cache_experts": slots, "reader": reader, "overlap": overlap}
        compare(patch, stacked, tokens, options)


def compare(patch, folder, tokens, options):
    """The same tokens twice, in compiled code and in Python."""
    found = []
    for compiled in (True, False):
        with load(folder, **options) as engine:
            if compiled:
                found.append((*decoded(engine, tokens), *decoded(engine, tokens)))
            else:
                with served_by_python(patch):
                    found.append((*decoded(engine, tokens), *decoded(engine, tokens)))
            found[-1] += (ordered(engine),)
    compiled, plain = found
    assert np.array_equal(compiled[0], plain[0]) and np.array_equal(compiled[2], plain[2])
    for mine, wanted in zip((compiled[1], compiled[3]), (plain[1], plain[3]), strict=True):
        # Fully resident layers report together, when the call ends.
        assert sorted(mine, key=str) == sorted(wanted, key=str)
        if options["cache_experts"] < EXPERTS * LAYERS:
            assert mine == wanted
    assert compiled[4] == plain[4]


@pytest.mark.parametrize("reader", ["pread", "direct"])
def test_small_tensors_need_no_thread(stacked, monkeypatch, reader):
    """From an expert's second miss on the kernel reads its tensors, aligned or not."""
    with load(stacked, reader=reader, overlap="auto") as engine:
        assert reader_of(engine).name == reader, "this file system has no direct reads"
        read_by_the_kernel_alone(engine, monkeypatch)


def warm(engine):
    """Read each record once, so that its sum is checked, and learn where it is."""
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            pager_of(engine).acquire([ExpertKey(layer, expert)])
    decoded(engine, TOKENS)


def test_the_kernel_reads_what_misses(repacked, monkeypatch):
    """From a record's second read on no thread reads, and no switch is called."""
    with readable_by_the_kernel(), load(repacked) as engine:
        read_by_the_kernel_alone(engine, monkeypatch)


def read_by_the_kernel_alone(engine, monkeypatch):
    """Decode with misses, of which no thread and no switch makes one."""
    warm(engine)
    pager, calls = pager_of(engine), []
    monkeypatch.setattr(pager, "submit", calls.append)
    monkeypatch.setattr(PagedSwitch, "decode", calls.append)
    kv = make_prompt_cache(engine.model)
    engine.model(mx.array([[1]]), cache=kv)
    log = pager.sink = EventLog()
    for token in TOKENS:
        engine.model(mx.array([[token]]), cache=kv)
    assert not calls and log.kinds().count("PagedIn") > len(TOKENS)


@pytest.mark.parametrize("fault", ["refused", "short"])
@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_a_read_that_the_kernel_fails_is_made_by_a_thread(repacked, fault, every):
    """Logits, events and table are the same: one read of several, or each of them, at any layer."""
    found = []
    for faulty in (True, False):
        with readable_by_the_kernel() as patch, load(repacked) as engine:
            warm(engine)
            count, source = 0, QueuedReads.source

            def wrong(self, key, source=source):
                nonlocal count
                count += 1
                right = source(self, key)
                if right is None or count % every:
                    return right
                return (right[0], 10_000, -1) if fault == "refused" else (1 << 40, *right[1:])

            if faulty:
                patch.setattr(QueuedReads, "source", wrong)
                pager_of(engine).forget_slot_maps()
            found.append((*decoded(engine, TOKENS), ordered(engine)))
            assert bool(count) is faulty and kernel_reads_in_flight(pager_of(engine)) == 0
    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_a_read_that_fails_for_good_is_raised_and_the_engine_goes_on(repacked, monkeypatch):
    """What the kernel and the thread cannot read is ReadFailed; slots are free or resident."""
    with readable_by_the_kernel(), load(repacked) as engine:
        warm(engine)
        expected, _ = decoded(engine, TOKENS)
        pager, source = pager_of(engine), QueuedReads.source
        with monkeypatch.context() as patch:
            patch.setattr(QueuedReads, "source", lambda *args: (1 << 40, *source(*args)[1:]))
            reader = FaultyReader(pager.reader, lambda where: True)
            reader.kernel_readable = pager.reader.kernel_readable
            pager.reader = reader
            with pytest.raises(ReadFailed, match="made to fail"):
                decoded(engine, TOKENS)
        pager.table.check()
        assert kernel_reads_in_flight(pager) == 0
        pager.reader = reader.inner
        assert np.array_equal(decoded(engine, TOKENS)[0], expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stopped])
@pytest.mark.parametrize("at", [1, 2, 3, 5, 9, 14])
def test_an_interrupt_after_any_layer_leaves_all_whole(repacked, monkeypatch, error, at):
    """The layers that were done have reported; the next tokens are those of a fresh engine."""
    monkeypatch.setattr(token_loop, "SLICE_NS", 0)
    with readable_by_the_kernel(), load(repacked) as engine:
        warm(engine)
        expected, _ = decoded(engine, TOKENS)
        count, check = 0, TokenPaging.check_running

        def stopping(self):
            nonlocal count
            count += 1
            if count == at:
                raise error
            check(self)

        with monkeypatch.context() as patch:
            patch.setattr(TokenPaging, "check_running", stopping)
            with pytest.raises(error):
                decoded(engine, TOKENS)
        pager_of(engine).table.check()
        assert kernel_reads_in_flight(pager_of(engine)) == 0
        assert np.array_equal(decoded(engine, TOKENS)[0], expected)


@pytest.mark.parametrize("at", [1, 2, 4, 8])
def test_an_interrupt_while_reads_are_under_way_waits_for_them(repacked, monkeypatch, at):
    """They are committed and reported before anything else happens."""
    with readable_by_the_kernel(), load(repacked) as engine:
        warm(engine)
        expected, _ = decoded(engine, TOKENS)
        pager, source, count = pager_of(engine), QueuedReads.source, 0
        complete = TokenPaging.complete

        def interrupted(self, layer, log):
            nonlocal count
            count += 1
            if count == at:
                raise KeyboardInterrupt
            complete(self, layer, log)

        with monkeypatch.context() as patch:
            patch.setattr(QueuedReads, "source", lambda *args: (1 << 40, *source(*args)[1:]))
            patch.setattr(TokenPaging, "complete", interrupted)
            pager.forget_slot_maps()
            with pytest.raises(KeyboardInterrupt):
                decoded(engine, TOKENS)
        pager.forget_slot_maps()
        pager.table.check()
        assert np.array_equal(decoded(engine, TOKENS)[0], expected)


def test_the_stop_flag_ends_a_token_before_its_next_layer(repacked):
    """Compiled code sees the event that any thread sets."""
    with readable_by_the_kernel(), load(repacked) as engine:
        decoded(engine, TOKENS)
        pager_of(engine).stop.set()
        with pytest.raises(Stopped):
            decoded(engine, TOKENS)
        pager_of(engine).stop.clear()
        pager_of(engine).table.check()
        decoded(engine, TOKENS)


def test_records_are_checked_on_their_first_read(repacked, tmp_path):
    """A damaged record is read from the shards, by a thread, and the reader's note says so."""
    with readable_by_the_kernel(), load(repacked) as engine:
        expected = decoded(engine, TOKENS)
    folder = shutil.copytree(repacked, tmp_path / "model")
    file = next(folder.glob("*.repacked"))
    content = bytearray(file.read_bytes())
    for layout in Records.open(file).plans:
        for expert in range(0, EXPERTS, 2):
            content[layout.begin + expert * layout.stride + 100] ^= 255
    file.write_bytes(content)
    with readable_by_the_kernel(), load(folder) as engine:
        found = decoded(engine, TOKENS)
        assert "damaged" in engine.status().reader_note
    assert np.array_equal(found[0], expected[0]) and found[1] == expected[1]


def test_a_whole_record_is_checked_without_python(repacked, monkeypatch):
    """Its first read is the kernel's, too."""
    with readable_by_the_kernel(), load(repacked) as engine:
        pager, threads = pager_of(engine), []
        kv = make_prompt_cache(engine.model)
        engine.model(mx.array([[1]]), cache=kv)
        submit = pager.submit
        monkeypatch.setattr(
            pager, "submit", lambda place: (threads.append(place), submit(place))[1]
        )
        log = pager.sink = EventLog()
        for token in TOKENS:
            engine.model(mx.array([[token]]), cache=kv)
        assert not threads and log.kinds().count("PagedIn") > len(TOKENS)
