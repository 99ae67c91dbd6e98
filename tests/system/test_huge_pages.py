"""Memory in large pages: asked for within bounds, and never at the price of what memory holds."""

from __future__ import annotations

import mmap
import sys
import threading
import time

import numpy as np
import pytest

from outlier_jupyter.system import huge_pages as large_pages
from outlier_jupyter.system.huge_pages import BY_ITSELF, GATHER, LARGE, LARGE_PAGES

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS if hasattr(mmap, "MAP_PRIVATE") else 0


@pytest.fixture
def asked(monkeypatch):
    """What the system is asked: (begin, bytes, advice); it takes everything, and does nothing."""
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(large_pages, "_madvise", lambda: lambda *call: asked.append(call) or 0)
    return asked


def test_only_whole_pages_within_the_memory_are_asked_for(asked):
    """What lies beside the memory in its first and last large page is none of its business."""
    large_pages.gather(3 * LARGE + 5, 4 * LARGE)
    assert asked == [(4 * LARGE, 3 * LARGE, advice) for advice in (LARGE_PAGES, GATHER)]
    asked.clear()
    large_pages.gather(LARGE, 2 * LARGE)
    assert asked == [(LARGE, 2 * LARGE, advice) for advice in (LARGE_PAGES, GATHER)]
    asked.clear()
    large_pages.gather(5, 2 * LARGE - 10)
    assert asked == []


def test_a_system_without_large_pages_is_asked_for_nothing_more(monkeypatch):
    """Nor is one without such advice asked for anything."""
    asked = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(large_pages, "_madvise", lambda: lambda *call: asked.append(call[2]) or -1)
    large_pages.gather(0, 2 * LARGE)
    assert asked == [LARGE_PAGES]
    monkeypatch.setattr(sys, "platform", "darwin")
    large_pages.gather(0, 2 * LARGE)
    assert asked == [LARGE_PAGES]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are Linux's")
def test_large_pages_are_asked_for_as_soon_as_memory_is_mapped(asked):
    """Of what was there before nothing is asked."""
    before = mmap.mmap(-1, BY_ITSELF, flags=PRIVATE)
    with large_pages.coming(BY_ITSELF):
        time.sleep(0.05)
        assert asked == []
        came = mmap.mmap(-1, BY_ITSELF + 2 * LARGE, flags=PRIVATE)
        end = time.monotonic() + 30
        while not asked and time.monotonic() < end:
            time.sleep(0.001)
    place = np.frombuffer(came, np.uint8).ctypes.data
    (begin, nbytes, advice), *_ = asked
    assert advice == LARGE_PAGES
    assert begin <= place + LARGE and place + len(came) - LARGE <= begin + nbytes
    before.close()


def test_little_is_not_looked_out_for(asked):
    """It shares what C's allocator has mapped already."""
    with large_pages.coming(BY_ITSELF - 1):
        assert not [each for each in threading.enumerate() if "_look_out" in each.name]
    assert asked == []


def test_memory_holds_what_it_held():
    """Gathered memory keeps its content."""
    held = np.arange(3 * LARGE, dtype=np.uint8)
    wanted = held.copy()
    large_pages.gather(held.ctypes.data, held.nbytes)
    assert (held == wanted).all()
    held += 1
    assert (held == wanted + 1).all()


@pytest.mark.parametrize("nbytes", [0, 1, 5_000, LARGE, 3 * LARGE + 5])
def test_a_buffer_begins_on_a_page(nbytes):
    """It is as long as asked for, holds zeros, and may be written; a large one is aligned."""
    view = large_pages.buffer(nbytes)
    assert len(view) == nbytes and not any(view[:100])
    if nbytes:
        place = np.frombuffer(view, np.uint8).ctypes.data
        assert place % (LARGE if nbytes >= LARGE else 4096) == 0
        view[-1:] = b"x"
        assert view[-1] == ord("x")
