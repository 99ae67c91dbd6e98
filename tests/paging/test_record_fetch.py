"""Reads through the kernel's queue equal reads by threads, and fail in the same way."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.checkpoint import KernelQueue, KernelReadable
from outlier_jupyter.checkpoint import linux_aio as kernel_queue
from outlier_jupyter.checkpoint.readers import PreadReader
from outlier_jupyter.errors import ReadFailed
from outlier_jupyter.events import PagedIn
from outlier_jupyter.testing import EventLog, FaultyReader
from tests.inspection import kernel_reads_in_flight, pager_of, reader_of

PROMPT = "import os"


@pytest.fixture
def own(tiny, tmp_path):
    """A copy of the tiny model, repacked."""
    folder = shutil.copytree(tiny, tmp_path / "model")
    outlier_jupyter.repack(folder, quiet=True)
    return folder


@pytest.fixture
def submitted(monkeypatch):
    """Let the kernel read every file, aligned or not; return the numbers of submitted reads."""
    numbers: list[int] = []
    submit = KernelQueue.submit

    def counted(self, wanted, *rest):
        taken = submit(self, wanted, *rest)
        numbers.extend(read.number for read in wanted[:taken])
        return taken

    def kernel_readable(self, where):
        return KernelReadable(self._descriptors[where.file], 1)

    monkeypatch.setattr(KernelQueue, "submit", counted)
    monkeypatch.setattr(PreadReader, "kernel_readable", kernel_readable)
    monkeypatch.setattr(PreadReader, "name", "direct")  # the other files are not submitted
    return numbers


def load(folder, **options):
    options = {"cache_experts": 6, "reader": "pread", "overlap": "on"} | options
    return outlier_jupyter.load(folder, **options)


@pytest.mark.parametrize("slots", [1, 3, 6, 20])
@pytest.mark.parametrize("overlap", ["on", "off"])
def test_tokens_and_trace_are_those_of_threads(own, submitted, monkeypatch, slots, overlap):
    """Equal at every cache size; a thread makes a record's first read, which checks it."""
    traces = []
    for calls in (kernel_queue.CALLS, {}):
        monkeypatch.setattr(kernel_queue, "CALLS", calls)
        with load(own, cache_experts=slots, overlap=overlap) as engine:
            traces += [engine.generate(PROMPT, max_tokens=12).trace for _ in range(2)]
        assert bool(submitted) is bool(calls)
        if calls:
            assert len(submitted) <= len(traces[0].reads) + len(traces[1].reads) - slots
        submitted.clear()
    for queued, threads in zip(traces[:2], traces[2:], strict=True):
        for name in ("tokens", "experts", "weights", "hits", "evictions", "resident_at_start"):
            assert np.array_equal(getattr(queued, name), getattr(threads, name))
        for name in ("step", "layer", "expert", "nbytes"):
            assert np.array_equal(queued.reads[name], threads.reads[name])
        assert (queued.reads["ns"] > 0).all()


def test_slots_that_move_are_read_into_where_they_are(own, submitted):
    """After a resize, reads go to the bank's new address."""
    with load(own, cache_experts=24) as engine:
        expected = engine.generate(PROMPT, max_tokens=8)
        for slots in (4, 9, 2):
            engine.resize(cache_experts=slots)
            assert engine.generate(PROMPT, max_tokens=8).text == expected.text
    assert submitted


def test_what_the_kernel_cannot_read_a_thread_reads_or_says_why(own, submitted, monkeypatch):
    """If a record's bytes cannot be read, the shards are read, and the reader's note says so.

    The test truncates the file and disables the check for changed files.
    """
    with load(own) as engine:
        monkeypatch.setattr(reader_of(engine), "changed", lambda before=None: "")
        expected = engine.generate(PROMPT, max_tokens=12)
        records = next(own.glob("*.repacked"))
        with records.open("r+b") as file:
            file.truncate(records.stat().st_size // 2)
        assert engine.generate(PROMPT, max_tokens=12).text == expected.text
        assert "damaged" in engine.status().reader_note
        pager = pager_of(engine)
        pager.reader = FaultyReader(pager.reader, lambda where: True)
        with pytest.raises(ReadFailed, match="made to fail"):
            engine.generate("something else altogether", max_tokens=12)
        pager.reader.fails = lambda where: False
        assert engine.generate(PROMPT, max_tokens=12).text == expected.text


def test_an_interrupt_in_mid_wait_leaves_nothing_under_way(own, submitted, monkeypatch):
    """Submitted reads complete, are committed and are reported before anything else is read."""
    with load(own) as engine:
        expected = engine.generate(PROMPT, max_tokens=12)
        pager, log, completed = pager_of(engine), EventLog(), KernelQueue.completed
        engine.subscribe(log, PagedIn)

        def interrupted(self, wait):
            monkeypatch.setattr(KernelQueue, "completed", completed)
            raise KeyboardInterrupt

        monkeypatch.setattr(KernelQueue, "completed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.generate(PROMPT, max_tokens=12)
        assert kernel_reads_in_flight(pager) == 0
        pager.table.check()
        assert log.events
        assert engine.generate(PROMPT, max_tokens=12).text == expected.text
