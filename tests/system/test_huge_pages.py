"""Huge pages are requested within bounds, and never change what memory holds."""

from __future__ import annotations

import mmap
import sys
import threading
import time

import numpy as np
import pytest

from outlier_jupyter.system import huge_pages
from outlier_jupyter.system.huge_pages import ADVISE_HUGE, COLLAPSE, HUGE, SEPARATE_MAPPING

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS if hasattr(mmap, "MAP_PRIVATE") else 0


@pytest.fixture
def calls(monkeypatch):
    """Records the advice (begin, bytes, advice) and accepts it without effect."""
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(huge_pages, "madvise", lambda: lambda *call: calls.append(call) or 0)
    return calls


def test_only_whole_pages_within_the_memory_are_advised(calls):
    """Other memory in the first and last huge page is unaffected."""
    huge_pages.collapse(3 * HUGE + 5, 4 * HUGE)
    assert calls == [(4 * HUGE, 3 * HUGE, advice) for advice in (ADVISE_HUGE, COLLAPSE)]
    calls.clear()
    huge_pages.collapse(HUGE, 2 * HUGE)
    assert calls == [(HUGE, 2 * HUGE, advice) for advice in (ADVISE_HUGE, COLLAPSE)]
    calls.clear()
    huge_pages.collapse(5, 2 * HUGE - 10)
    assert calls == []


def test_a_system_without_huge_pages_gets_no_more_advice(monkeypatch):
    """Nor does a system without such advice get any."""
    calls = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(huge_pages, "madvise", lambda: lambda *call: calls.append(call[2]) or -1)
    huge_pages.collapse(0, 2 * HUGE)
    assert calls == [ADVISE_HUGE]
    monkeypatch.setattr(sys, "platform", "darwin")
    huge_pages.collapse(0, 2 * HUGE)
    assert calls == [ADVISE_HUGE]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are Linux's")
def test_huge_pages_are_requested_as_soon_as_memory_is_mapped(calls):
    """Memory that was mapped before is unaffected."""
    before = mmap.mmap(-1, SEPARATE_MAPPING, flags=PRIVATE)

    def advised(memory):
        # The process's heap may be as large and grow meanwhile, so only these regions count.
        place = np.frombuffer(memory, np.uint8).ctypes.data
        inside = range(place, place + len(memory))
        return [call for call in calls if call[0] in inside or call[0] + call[1] - 1 in inside]

    with huge_pages.prepare(SEPARATE_MAPPING):
        time.sleep(0.05)
        assert advised(before) == []
        came = mmap.mmap(-1, SEPARATE_MAPPING + 2 * HUGE, flags=PRIVATE)
        end = time.monotonic() + 30
        while not advised(came) and time.monotonic() < end:
            time.sleep(0.001)
    place = np.frombuffer(came, np.uint8).ctypes.data
    (begin, nbytes, advice), *_ = advised(came)
    assert advice == ADVISE_HUGE
    assert begin <= place + HUGE and place + len(came) - HUGE <= begin + nbytes
    before.close()


def test_small_memory_is_not_watched_for(calls):
    """It shares memory that C's allocator has already mapped."""
    with huge_pages.prepare(SEPARATE_MAPPING - 1):
        assert not [each for each in threading.enumerate() if "_advise_new" in each.name]
    assert calls == []


def test_collapsed_memory_keeps_its_content():
    """Collapsed memory keeps its content."""
    array = np.arange(3 * HUGE, dtype=np.uint8)
    wanted = array.copy()
    huge_pages.collapse(array.ctypes.data, array.nbytes)
    assert (array == wanted).all()
    array += 1
    assert (array == wanted + 1).all()


@pytest.mark.parametrize("nbytes", [0, 1, 5_000, HUGE, 3 * HUGE + 5])
def test_a_buffer_begins_on_a_page(nbytes):
    """It has the requested length, is zeroed and writable; a large one is aligned."""
    view = huge_pages.buffer(nbytes)
    assert len(view) == nbytes and not any(view[:100])
    if nbytes:
        place = np.frombuffer(view, np.uint8).ctypes.data
        assert place % (HUGE if nbytes >= HUGE else 4096) == 0
        view[-1:] = b"x"
        assert view[-1] == ord("x")
