"""The log in which resident layers write a token's routing, and its events."""

from __future__ import annotations

import numpy as np

from outlier_jupyter.paging.resident_log import ResidentLog


def test_each_layer_writes_into_its_own_buffers_and_is_reported() -> None:
    """Layers are in the order in which they return; those with another k have a separate event."""
    log = ResidentLog(3)
    for layer, k in ((2, 2), (0, 2), (1, 3)):
        ids, weights = log.buffers(layer, k)
        assert np.shares_memory(ids, log.buffers(layer, k)[0])
        ids[:], weights[:] = layer + np.arange(k), 0.5 * layer
        log.note((k, layer, 10 * layer, layer))
    two, three = log.events()
    assert two.layers.tolist() == [2, 0] and two.experts.tolist() == [[2, 3], [0, 1]]
    assert two.weights.tolist() == [[1, 1], [0, 0]] and two.experts.dtype == np.int32
    assert two.start_ns.tolist() == [20, 0] and two.ns.tolist() == [2, 0]
    assert three.layers.tolist() == [1] and three.experts.tolist() == [[1, 2, 3]]


def test_an_event_stays_when_the_next_token_is_written_and_cleared() -> None:
    """The buffers are reused; the event has a copy."""
    log = ResidentLog(1)
    ids, weights = log.buffers(0, 1)
    ids[:], weights[:] = 7, 1
    log.note((1, 0, 5, 6))
    (events,) = log.events()
    log.clear()
    ids[:], weights[:] = 8, 2
    assert events.experts.tolist() == [[7]] and events.weights.tolist() == [[1]]
    assert events.start_ns.tolist() == [5] and log.events() == []
