"""The bytes of a token, moved without computation: all of them, and in order."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.traffic import TOKENS, Traffic
from outlier_jupyter.benchmark.limits import STEP, Memory
from outlier_jupyter.checkpoint import PAGE, KernelQueue

pytestmark = pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="direct reads are Linux's")


def test_every_miss_is_read_and_every_active_byte_moved(tmp_path, monkeypatch):
    """Each layer moves its dense bytes, reads its misses, then moves its hits and what arrived."""
    monkeypatch.setattr(os, "O_DIRECT", 0)  # a test's file system may not support direct reads
    file = tmp_path / "experts"
    file.write_bytes(bytes(20 * PAGE))
    rng = np.random.default_rng(0)
    hits = rng.random((1 + TOKENS, 3, 4)) < 0.5
    trace = SimpleNamespace(
        experts=np.zeros(hits.shape, np.int16), hits=hits, produced=np.ones(len(hits), np.int32)
    )
    seen: list[tuple[str, float]] = []
    submit = KernelQueue.submit

    def counted(self, reads, *rest):
        seen.append(("read", len(reads)))
        return submit(self, reads, *rest)

    monkeypatch.setattr(KernelQueue, "submit", counted)
    memory = Memory(STEP)
    monkeypatch.setattr(memory, "move", lambda nbytes: seen.append(("moved", nbytes)))
    traffic = Traffic(file, 2 * PAGE + 7, 4, memory)
    assert traffic.token_s(trace, active_bytes=3 * 4 * 2 * PAGE + 300) > 0
    traffic.close()
    assert sum(n for what, n in seen if what == "read") == (~hits[1:]).sum()
    assert sum(n for what, n in seen if what == "moved") == pytest.approx(
        TOKENS * (3 * 4 * 2 * PAGE + 300)
    )
    assert seen[0] == ("moved", 100)


def test_memory_is_moved_from_where_the_last_reading_ended():
    """It continues round and round, so no CPU cache has the bytes; a part of a step is left out."""
    memory = Memory(3 * STEP)
    for steps, place in ((1, 1), (1, 2), (5, 1), (0.5, 1)):
        memory.move(4 * STEP * steps)
        assert memory.position == place * STEP
