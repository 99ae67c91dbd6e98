"""Memory in large pages: asked for within bounds, and never at the price of what memory holds."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from outlier_jupyter import large_pages
from outlier_jupyter.large_pages import DROP, FILL, GATHER, LARGE, LARGE_PAGES


@pytest.fixture
def asked(monkeypatch):
    """What the system is asked: (begin, bytes, advice); it takes everything, and does nothing."""
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(large_pages, "_madvise", lambda: lambda *call: asked.append(call) or 0)
    return asked


def test_only_whole_pages_within_the_memory_are_asked_for(asked):
    """What lies beside the memory in its first and last large page is none of its business."""
    large_pages.renew(3 * LARGE + 5, 4 * LARGE)
    assert asked == [(4 * LARGE, 3 * LARGE, advice) for advice in (LARGE_PAGES, DROP, FILL)]
    asked.clear()
    large_pages.gather(LARGE, 2 * LARGE)
    assert asked == [(LARGE, 2 * LARGE, advice) for advice in (LARGE_PAGES, GATHER)]
    asked.clear()
    large_pages.gather(5, 2 * LARGE - 10)
    assert asked == []


def test_memory_is_given_up_only_where_large_pages_are_to_be_had(monkeypatch):
    """A system without large pages is asked for nothing more, one without advice for nothing."""
    asked = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(large_pages, "_madvise", lambda: lambda *call: asked.append(call[2]) or -1)
    large_pages.renew(0, 2 * LARGE)
    large_pages.gather(0, 2 * LARGE)
    assert asked == [LARGE_PAGES] * 2
    monkeypatch.setattr(sys, "platform", "darwin")
    large_pages.renew(0, 2 * LARGE)
    assert asked == [LARGE_PAGES] * 2


def test_memory_holds_what_it_held():
    """Gathered memory keeps its content, renewed memory its zeros and what lies around them."""
    held = np.arange(3 * LARGE, dtype=np.uint8)
    wanted = held.copy()
    large_pages.gather(held.ctypes.data, held.nbytes)
    assert (held == wanted).all()
    held[LARGE // 2 : -LARGE // 2] = 0
    wanted = held.copy()
    large_pages.renew(held.ctypes.data + LARGE // 2, 2 * LARGE)
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
