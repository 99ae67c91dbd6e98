"""The live view shows each rank's hits, residency and read latency side by side."""

from __future__ import annotations

from base64 import b64decode
from types import SimpleNamespace

import numpy as np

from outlier_jupyter.events import DECODE, CallStarted, PagedIn, RanksServed, RunDone, StepDone
from outlier_jupyter.notebook.live.rank_note import RankNote
from outlier_jupyter.trace import TraceInfo


def note(hosts: tuple[str, ...]) -> tuple[SimpleNamespace, RankNote]:
    view = SimpleNamespace(info={"model": "m"})
    info = TraceInfo(experts_per_layer=(4,), expert_nbytes=(1_000_000,), hosts=hosts)
    return view, RankNote(view, SimpleNamespace(info=info), clock=lambda: 1.0)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_the_ranks_are_shown_side_by_side():
    """At most every half second, and at the end of the run."""
    view, subscriber = note(("a", "b"))
    owners = numbers(0, 1, 0, 1)
    served = RanksServed(
        0, numbers(5_000_000, 1_000_000), numbers(1, 0), numbers(1, 1), numbers(2, 1), owners
    )
    for event in (PagedIn(0, 1, 0, 1_000_000, 0, 2_000_000, 1), served, StepDone(3, 9, 0)):
        subscriber(event)
    first, second = before = view.info["ranks"]
    assert first == {
        "name": "rank 0 (a)", "ms": [],
        "words": "100 % hits, prompt included, 2 MB in RAM, 0 B in 0 reads, "
                 "waited for 100 % of the ranks’ time",
    }  # fmt: skip
    assert second["name"] == "rank 1 (b)"
    assert second["words"].startswith(
        "0 % hits, prompt included, 1 MB in RAM, 1 MB in 1 reads of 2 ms"
    )
    assert b64decode(view.info["owners"]) == bytes([0, 1, 0, 1])
    call = CallStarted(DECODE, numbers(3), 0)
    for event in (call, PagedIn(0, 1, 0, 1_000_000, 0, 4_000_000, 1), served, StepDone(4, 9, 0)):
        subscriber(event)
    assert view.info["ranks"] == before
    subscriber(RunDone("length"))
    assert [each["ms"] for each in view.info["ranks"]] == [[None], [4.0]]
    assert view.info["model"] == "m"


def test_one_process_has_none():
    """The view stays as it is."""
    view, subscriber = note(())
    subscriber(StepDone(1, 2, 0))
    assert view.info == {"model": "m"}
