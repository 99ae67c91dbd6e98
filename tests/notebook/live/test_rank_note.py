"""The live view shows each rank's hits, residency and read latency side by side."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from outlier_jupyter.events import PagedIn, RanksServed, RunDone, StepDone
from outlier_jupyter.notebook.live.rank_note import RankNote
from outlier_jupyter.trace import TraceInfo


def note(hosts: tuple[str, ...]) -> tuple[SimpleNamespace, RankNote]:
    view = SimpleNamespace(info={"model": "m"})
    info = TraceInfo(experts_per_layer=(4,), expert_nbytes=(1_000_000,), hosts=hosts)
    return view, RankNote(view, SimpleNamespace(info=info), clock=lambda: 1.0)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_the_header_has_a_line_for_each_rank():
    """At most every half second, and at the end of the run."""
    view, subscriber = note(("a", "b"))
    owners = numbers(0, 1, 0, 1)
    served = RanksServed(
        0, numbers(5_000_000, 1_000_000), numbers(1, 0), numbers(1, 1), numbers(2, 1), owners
    )
    for event in (PagedIn(0, 1, 0, 1_000_000, 0, 2_000_000, 1), served, StepDone(3, 9, 0)):
        subscriber(event)
    first, second = view.info["ranks"].splitlines()
    assert first == "rank 0 (a): 100 % hits, 2 MB in RAM, 0 B in 0 reads, waited for 100 % of " \
                    "the ranks’ time"  # fmt: skip
    assert "rank 1 (b): 0 % hits, 1 MB in RAM, 1 MB in 1 reads of 2 ms" in second
    for event in (served, StepDone(4, 9, 0)):
        subscriber(event)
    assert view.info["ranks"].splitlines() == [first, second]
    subscriber(RunDone("length"))
    assert "50 % hits" not in view.info["ranks"] and view.info["model"] == "m"


def test_one_process_has_no_lines():
    """The header stays as it is."""
    view, subscriber = note(())
    subscriber(StepDone(1, 2, 0))
    assert view.info == {"model": "m"}
