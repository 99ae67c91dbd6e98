"""The limits of the hardware."""

from __future__ import annotations

import numpy as np
import pytest

from outlier_jupyter.benchmark.limits import PARTS, STEP, Memory, least_seconds


def test_the_memory_test_reads_every_word():
    """A change in any word changes the sum of its share."""
    memory = Memory(2 * STEP)
    before = memory.sums.copy()
    for place in np.random.default_rng(0).integers(0, 2 * STEP, 200):
        memory.words[place] = 2.0
        memory.read()
        changed = np.flatnonzero(memory.sums != before)
        assert changed.tolist() == [place // (2 * STEP // PARTS)]
        memory.words[place] = 1.0


def test_the_limit_is_what_takes_longer():
    """Bytes over bandwidth for memory and disk; the larger time is the limit."""
    assert least_seconds(10.0, 1.0, 5.0, 1.0) == pytest.approx(2.0)
    assert least_seconds(1.0, 4.0, 5.0, 1.0) == pytest.approx(4.0)
