"""Rows divided among threads."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.cpu.kernels.work_partition import END, LEAST, RUN, SIBLINGS, START, partition


@given(runs=st.integers(1, 40), rows=st.integers(1, 5000))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_row_is_in_one_portion(runs, rows):
    """Rows stay in order, no portion crosses two runs, and each has its run's row count."""
    dealt = partition.__wrapped__(runs, rows)
    assert np.array_equal(np.unique(dealt[:, RUN]), np.arange(runs))
    for run in range(runs):
        mine = dealt[dealt[:, RUN] == run]
        assert mine[0, START] == 0 and mine[-1, END] == rows
        assert all(before[END] == after[START] for before, after in pairwise(mine))
        assert (mine[:, SIBLINGS] == len(mine)).all()
    assert (np.diff(dealt[:, RUN]) >= 0).all()


@given(rows=st.integers(LEAST, 100_000))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_portions_shrink(rows):
    """The last portions are small, but not so small that taking one costs as much as its work."""
    dealt = partition.__wrapped__(1, rows)
    sizes = dealt[:, END] - dealt[:, START]
    assert (np.diff(sizes[:-1]) <= 0).all()
    assert sizes.min() >= LEAST and sizes[-1] < 2 * LEAST + 1
