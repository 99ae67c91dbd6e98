"""The logs that compiled code writes a token's routing to, and the events of resident layers."""

from __future__ import annotations

import numpy as np

from outlier_jupyter.paging.token_logs import TokenLogs
from outlier_jupyter.residency.token_arrays import IDS, NS, START


def test_each_layer_writes_into_its_own_rows_and_is_reported() -> None:
    """Layers are in the order in which they return; those with another k have a separate event."""
    logs = TokenLogs(3)
    for layer, k in ((2, 2), (0, 2), (1, 3)):
        log = logs.of(k)
        log.rows[layer, IDS], log.weights[layer] = layer + np.arange(k), 0.5 * layer
        log.times[layer, [START, NS]] = 10 * layer, layer
        logs.note(k, [layer])
    two, three = logs.events()
    assert two.layers.tolist() == [2, 0] and two.experts.tolist() == [[2, 3], [0, 1]]
    assert two.weights.tolist() == [[1, 1], [0, 0]] and two.experts.dtype == np.int32
    assert two.start_ns.tolist() == [20, 0] and two.ns.tolist() == [2, 0]
    assert three.layers.tolist() == [1] and three.experts.tolist() == [[1, 2, 3]]


def test_an_event_stays_when_the_next_token_is_written_and_cleared() -> None:
    """The memory is reused; the event has a copy."""
    logs = TokenLogs(1)
    log = logs.of(1)
    log.rows[0, IDS], log.weights[0], log.times[0, START] = 7, 1, 5
    logs.note(1, [0])
    (events,) = logs.events()
    logs.clear()
    log.rows[0, IDS], log.weights[0], log.times[0, START] = 8, 2, 6
    assert events.experts.tolist() == [[7]] and events.weights.tolist() == [[1]]
    assert events.start_ns.tolist() == [5] and logs.events() == []


def test_no_event_stands_for_no_layer() -> None:
    """A token whose layers all had misses has no event of resident layers."""
    logs = TokenLogs(2)
    logs.of(2)
    logs.note(2, [])
    assert logs.events() == []
