"""The disk probe tries every reader, keeps to its time, and gives the advice its table shows."""

from __future__ import annotations

import itertools
import os
import threading

import pytest

from outlier_jupyter.checkpoint import disk_probe as disk
from outlier_jupyter.checkpoint.disk_probe import Cell, DiskTable, known_disk, probe_disk
from outlier_jupyter.errors import ReadFailed

MB = 1 << 20


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experts"
    path.write_bytes(os.urandom(3 * MB))
    return path


class SharedClock:
    """A clock that advances only when any thread reads it."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick, self.lock = 0.0, tick, threading.Lock()

    def __call__(self) -> float:
        with self.lock:
            self.now += self.tick
            return self.now


def test_every_way_is_measured_within_the_time(file):
    """Each reader, depth and size has a row, and the probe ends near its time limit."""
    clock = SharedClock(0.0005)
    table = probe_disk(file, MB, seconds=2.0, clock=clock)
    ways = {(cell.reader, cell.depth, cell.nbytes) for cell in table.cells}
    kinds = {"pread"} if table.note else {"pread", "direct"}
    assert ways == set(itertools.product(kinds, disk.DEPTHS, [MB, MB // 4]))
    assert all(cell.mb_per_s > 0 and 0 < cell.p50_ms <= cell.p95_ms for cell in table.cells)
    assert all(cell.reads >= cell.depth for cell in table.cells)
    assert sum(cell.reads for cell in table.cells) > 2 * len(table.cells)
    assert clock.now < 2.1


@pytest.mark.parametrize("nbytes", [1, 4096, 5000, 100 * MB])
def test_experts_of_any_size_can_be_probed(file, nbytes):
    """For experts smaller than a page or larger than the file, one size remains and is read."""
    table = probe_disk(file, nbytes, seconds=0.01)
    assert table.reader in ("direct", "pread") and table.threads >= 2
    assert {cell.nbytes for cell in table.cells} >= {table.nbytes}


def table(file, note="", **speeds: list[float]) -> DiskTable:
    """A table for whole experts with these MB/s at 1, 2, 4 and 8 reads at once."""
    cells = [
        Cell(reader, depth, MB, speed, 1.0, 2.0, 9)
        for reader, row in speeds.items()
        for depth, speed in zip(disk.DEPTHS, row, strict=True)
    ]
    split = Cell("pread", 8, MB // 4, 9e9, 1.0, 2.0, 9)  # experts are not read in pieces
    return DiskTable(file, MB, (*cells, split), note)


@pytest.mark.parametrize(
    ("direct", "pread", "reader", "threads"),
    [
        ([500, 900, 1000, 1000], [400, 500, 600, 600], "direct", 2),
        ([500, 800, 1000, 1010], [400, 500, 600, 600], "direct", 4),
        ([1000, 1000, 1000, 1000], [400, 500, 600, 600], "direct", 2),
        ([81, 80, 80, 80], [80, 85, 90, 100], "direct", 2),
        ([50, 60, 70, 79], [80, 85, 89, 100], "pread", 8),
        ([], [80, 85, 95, 100], "pread", 4),
    ],
)
def test_the_advice_is_the_fastest_reader_and_the_fewest_threads(
    direct, pread, reader, threads, file
):
    """Direct reads are chosen if about as fast; more threads only if they are faster."""
    speeds = {"pread": pread} | ({"direct": direct} if direct else {})
    found = table(file, **speeds)
    assert (found.reader, found.threads) == (reader, threads)
    assert f"{threads} at once" in found.why() and f"{reader}: " in str(found)
    assert table(file, note="refused", **speeds).why() == "refused"


def test_a_file_system_is_probed_once(file, monkeypatch):
    """A second probe of the same file system returns the first one's table."""
    monkeypatch.setattr(disk, "probed", {})
    calls = []
    monkeypatch.setattr(disk, "probe_disk", lambda *args: calls.append(args) or len(calls))
    small = file.with_name("small")
    small.write_bytes(b"1")
    assert known_disk([small, file], MB) == known_disk([file], MB) == 1
    assert calls == [(file, MB)]


def test_a_file_that_is_gone_is_a_read_failure(tmp_path):
    """A file that cannot be opened is one sentence."""
    with pytest.raises(ReadFailed, match="cannot be opened"):
        probe_disk(tmp_path / "gone", MB)
