"""The kernel's own queue of reads, where the system has one."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from outlier_jupyter.checkpoint import KernelQueue, kernel_queue, open_queue

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux has this queue alone")


def pieces(*reads: list[np.ndarray]) -> np.ndarray:
    """Where the memory of each read lies."""
    return np.array([[(m.ctypes.data, m.nbytes) for m in memory] for memory in reads], np.uint64)


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
    memory = [
        [np.zeros(size, np.uint8) for size in sizes] for sizes in ((100, 7), (1, 9), (999, 8))
    ]
    assert queue.submit(range(3), descriptor, [0, 7, 14], pieces(*memory)) == 3
    assert drained(queue) == {0: 107, 1: 10, 2: 1007} and queue.ended(True) == []
    for number, rows in enumerate(memory):
        whole = np.concatenate(rows)
        assert np.array_equal(whole, content[7 * number :][: whole.size])


def test_a_read_past_the_end_tells_how_much_came(file, queue):
    """Which whoever asked can see is too little."""
    memory = np.zeros(100, np.uint8)
    assert queue.submit([3], file[0], [9_950], pieces([memory])) == 1
    assert drained(queue) == {3: 50}
    assert np.array_equal(memory[:50], file[1][-50:])


def test_what_cannot_be_read_is_not_taken(file, queue):
    """A closed file, or the reads from a wrong one on; those before are made."""
    memory = np.zeros(10, np.uint8)
    assert queue.submit([1], 10_000, [0], pieces([memory])) == 0
    assert not queue.pending and queue.ended(False) == []
    assert queue.submit([1, 2, 3], file[0], [5, -1, 5], pieces(*[[memory]] * 3)) == 1
    assert drained(queue) == {1: 10}


def test_no_more_are_taken_than_may_be_pending(file, queue):
    """Whoever asks for more reads the others otherwise."""
    memory = np.zeros(1, np.uint8)
    wanted = kernel_queue.DEPTH + 5
    assert queue.submit(range(wanted), file[0], [0] * wanted, pieces(*[[memory]] * wanted)) == (
        kernel_queue.DEPTH
    )
    assert len(drained(queue)) == kernel_queue.DEPTH


def test_a_queue_closes_twice_and_none_is_opened_where_there_is_none(queue, monkeypatch):
    """Another system or machine has none, and is not asked."""
    queue.close()
    queue.close()
    monkeypatch.setattr(kernel_queue, "CALLS", {})
    assert open_queue() is None
