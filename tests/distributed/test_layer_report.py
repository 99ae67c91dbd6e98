"""The words of all ranks, added, are the events that one process would report."""

from __future__ import annotations

import numpy as np

from outlier_jupyter.distributed.layer_report import CHECK, LayerReport, check_word, written
from outlier_jupyter.events import Evicted, PagedIn, RanksServed, Routed, Waited

IDS = np.array([[0, 1], [2, 3]])
"""Two tokens; experts 0 and 2 are rank 0's."""


def routed(hits: list[list[bool]]) -> Routed:
    return Routed(5, IDS.astype(np.int32), np.array(hits), 7, 8)


def test_the_words_of_two_ranks_are_one_report():
    """Hits, reads, evictions and waits of both, with the slots of the second counted on."""
    events = [
        [routed([[True, False], [False, False]]), Evicted(1, 6, 3, 5, 2),
         PagedIn(5, 2, 3, 100, 2_000_000, 900), Waited(5, 40_000, 3_000)],
        [routed([[False, False], [False, True]]), PagedIn(5, 1, 0, 100, 1_500_000, 800),
         Waited(5, 90_000, 2_000)],
    ]  # fmt: skip
    own = [[11, 0, 50, 40, 3, 1], [11, 0, 99, 90, 2, 1]]
    words = sum(
        written(2, rank, own[rank], [0, 1, 2, 3], events[rank], 1_000_000) for rank in (0, 1)
    )
    report = LayerReport.of(words, 2, [0, 1, 2, 3])
    assert report.ranks[:, CHECK].tolist() == [11, 11]
    found = report.events(5, IDS, (10, 20, 50), 100, [0, 8], np.array([0, 1] * 4), [4, 5])
    assert found[0].hits.tolist() == [[True, False], [False, True]]
    assert (found[0].route_ns, found[0].lookup_ns) == (10, 30)
    served = found.pop()
    assert isinstance(served, RanksServed)
    assert [each.tolist() for each in served[1:5]] == [[50_000, 99_000], [1, 1], [2, 2], [4, 5]]
    assert found[1:] == [
        PagedIn(5, 1, 8, 100, 50 + 500_000, 800, 1),
        Evicted(1, 6, 3, 5, 2),
        PagedIn(5, 2, 3, 100, 50 + 1_000_000, 900),
        Waited(5, 90_000, 3_000),
    ]


def test_ranks_that_compute_something_else_have_another_check_word():
    """Another call, layer or set of experts."""
    words = [check_word(1, 0, [1, 2]), check_word(2, 0, [1, 2]), check_word(1, 1, [1, 2]),
             check_word(1, 0, [1, 3]), check_word(1, 0, [])]  # fmt: skip
    assert len(set(words)) == len(words) and min(words) > 0
