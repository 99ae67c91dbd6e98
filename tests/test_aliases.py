"""Old names of attributes stay for one release after a rename."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pytest

from outlier_jupyter import Ablation, Comparison, Sweep, Trace
from outlier_jupyter.aliases import alias
from outlier_jupyter.engine.plan import CacheSize
from outlier_jupyter.trace.divergence import RoutingDivergence
from outlier_jupyter.trace.equal_caches import StartingCache
from outlier_jupyter.trace.explain import Miss
from outlier_jupyter.trace.measures import Summary

OLD_NAMES = {
    Summary: {
        "read_early": "prefetched",
        "early_used": "prefetched_used",
        "early_wasted_bytes": "prefetched_wasted_bytes",
    },
    Miss: {
        "left_at": "evicted_at",
        "taken_by": "evicted_by",
        "held_by_belady": "resident_under_belady",
    },
    Trace: {"early": "prefetched"},
    RoutingDivergence: {"stays": "correlation_time"},
    StartingCache: {"held": "resident"},
    Comparison: {"warmth": "starting_caches", "parting": "divergence"},
    Ablation: {"foreseen": "requested"},
    Sweep: {"asked": "options"},
    CacheSize: {"tokens": "working_sets"},
}


def test_an_alias_reads_the_new_attribute_and_is_no_field():
    """A dataclass has its fields only; the old name reads one of them and cannot be set."""

    @dataclass
    class Record:
        resident: int
        held = alias("resident")

    record = Record(3)
    assert record.held == 3 and [field.name for field in fields(Record)] == ["resident"]
    record.resident = 4
    assert record.held == 4
    with pytest.raises(AttributeError):
        record.held = 5
    assert "`resident`" in (Record.held.__doc__ or "")


@pytest.mark.parametrize("kind", OLD_NAMES, ids=lambda kind: kind.__name__)
def test_old_names_read_what_the_new_ones_do(kind):
    """Each old name of a record is an alias of an attribute that the record has."""
    record = object.__new__(kind)
    marks = {new: np.array([i]) for i, new in enumerate(OLD_NAMES[kind].values())}
    vars(record).update(marks)
    for old, new in OLD_NAMES[kind].items():
        assert new in {field.name for field in fields(kind)} or callable(getattr(kind, new))
        assert getattr(record, old) is getattr(record, new), old
