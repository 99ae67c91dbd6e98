"""The kernel's own queue of reads, where the system has one."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from outlier_jupyter.checkpoint import KernelQueue, kernel_queue, open_queue

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux has this queue alone")


def pieces(*memory: np.ndarray) -> np.ndarray:
    """Where these lie."""
    return np.array([(each.ctypes.data, each.nbytes) for each in memory], np.uint64)


@pytest.fixture
def file(tmp_path):
    """A descriptor of a file of 10,000 bytes, and these."""
    content = np.random.default_rng(0).integers(0, 256, 10_000, np.uint8)
    path = tmp_path / "bytes"
    path.write_bytes(content.tobytes())
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor, content
    os.close(descriptor)


@pytest.fixture
def queue():
    queue = KernelQueue()
    yield queue
    queue.close()


def drained(queue) -> dict[int, int]:
    """All that is pending, waited for."""
    found: dict[int, int] = {}
    while queue.pending:
        found |= dict(queue.ended(True))
    return found


def test_many_reads_land_in_the_pieces_they_were_meant_for(file, queue):
    """Each is one range of the file over several pieces of memory; all come, in any order."""
    descriptor, content = file
    memory = [np.zeros((3, size), np.uint8) for size in (100, 1, 999)]
    for number, rows in enumerate(memory):
        queue.submit(number, descriptor, 7 * number, pieces(*rows))
    assert drained(queue) == {0: 300, 1: 3, 2: 2997} and queue.ended(True) == []
    for number, rows in enumerate(memory):
        assert np.array_equal(rows.ravel(), content[7 * number :][: rows.size])


def test_a_read_past_the_end_tells_how_much_came(file, queue):
    """Which whoever asked can see is too little."""
    memory = np.zeros(100, np.uint8)
    queue.submit(3, file[0], 9_950, pieces(memory))
    assert drained(queue) == {3: 50}
    assert np.array_equal(memory[:50], file[1][-50:])


def test_what_cannot_be_read_is_refused_or_ends_with_the_error(file, queue):
    """A closed file at once; nothing is pending then."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        queue.submit(1, 10_000, 0, pieces(np.zeros(10, np.uint8)))
    assert not queue.pending and queue.ended(False) == []


def test_a_queue_closes_twice_and_none_is_opened_where_there_is_none(queue, monkeypatch):
    """Another system or machine has none, and is not asked."""
    queue.close()
    queue.close()
    monkeypatch.setattr(kernel_queue, "CALLS", {})
    assert open_queue() is None
