"""The kernel's queue of asynchronous reads, where the system has one."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from outlier_jupyter.checkpoint import KernelQueue, KernelRead, open_queue
from outlier_jupyter.checkpoint import linux_aio as kernel_queue

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux has this queue alone")


def pieces(*memory: np.ndarray) -> np.ndarray:
    """The addresses and lengths of these buffers, in the kernel's format."""
    return np.array([(each.ctypes.data, each.nbytes) for each in memory], np.uint64)


@pytest.fixture
def file(tmp_path):
    """A descriptor of a file of 10,000 bytes, and its content."""
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
    """Wait for all pending reads and return them."""
    found: dict[int, int] = {}
    while queue.pending:
        found |= dict(queue.completed(True))
    return found


def test_many_reads_land_in_the_pieces_they_were_meant_for(file, queue):
    """Each read scatters one file range into several buffers; all complete, in any order."""
    descriptor, content = file
    memory = [
        [np.zeros(size, np.uint8) for size in sizes] for sizes in ((100, 7), (1, 9), (999, 8))
    ]
    addresses = [pieces(*rows) for rows in memory]
    reads = [KernelRead(i, 7 * i, each.ctypes.data) for i, each in enumerate(addresses)]
    assert queue.submit(reads, descriptor, 2) == 3
    assert drained(queue) == {0: 107, 1: 10, 2: 1007} and queue.completed(True) == []
    for number, rows in enumerate(memory):
        whole = np.concatenate(rows)
        assert np.array_equal(whole, content[7 * number :][: whole.size])


def test_a_read_past_the_end_returns_the_bytes_read(file, queue):
    """The result shows the caller that bytes are missing."""
    memory = np.zeros(100, np.uint8)
    addresses = pieces(memory)
    assert queue.submit([KernelRead(3, 9_950, addresses.ctypes.data)], file[0], 1) == 1
    assert drained(queue) == {3: 50}
    assert np.array_equal(memory[:50], file[1][-50:])


def test_what_cannot_be_read_is_not_taken(file, queue):
    """A closed file is refused, and so are reads from an invalid one on; those before are made."""
    memory = np.zeros(10, np.uint8)
    addresses = pieces(memory)
    assert queue.submit([KernelRead(1, 0, addresses.ctypes.data)], 10_000, 1) == 0
    assert not queue.pending and queue.completed(False) == []
    reads = [
        KernelRead(i, offset, addresses.ctypes.data) for i, offset in ((1, 5), (2, -1), (3, 5))
    ]
    assert queue.submit(reads, file[0], 1) == 1
    assert drained(queue) == {1: 10}


def test_no_more_are_taken_than_may_be_pending(file, queue):
    """Further reads are refused, for the caller to make in another way."""
    memory = np.zeros(1, np.uint8)
    addresses = pieces(memory)
    reads = [KernelRead(i, 0, addresses.ctypes.data) for i in range(kernel_queue.DEPTH + 5)]
    assert queue.submit(reads, file[0], 1) == kernel_queue.DEPTH
    assert len(drained(queue)) == kernel_queue.DEPTH


def test_a_queue_closes_twice_and_none_is_opened_where_there_is_none(queue, monkeypatch):
    """Another system or architecture has no queue, and no system call is made."""
    queue.close()
    queue.close()
    monkeypatch.setattr(kernel_queue, "CALLS", {})
    assert open_queue() is None
