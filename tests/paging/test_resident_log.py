"""What resident layers write of a token, and what is told of it."""

from __future__ import annotations

import numpy as np

from outlier_jupyter.paging.resident_log import Choices


def test_each_layer_writes_into_a_room_of_its_own_and_what_was_noted_is_told() -> None:
    """In the order of serving; layers that choose more experts than others are told apart."""
    choices = Choices(3)
    for layer, k in ((2, 2), (0, 2), (1, 3)):
        ids, weights = choices.room(layer, k)
        assert np.shares_memory(ids, choices.room(layer, k)[0])
        ids[:], weights[:] = layer + np.arange(k), 0.5 * layer
        choices.note((k, layer, 10 * layer, layer))
    two, three = choices.told()
    assert two.layers.tolist() == [2, 0] and two.experts.tolist() == [[2, 3], [0, 1]]
    assert two.weights.tolist() == [[1, 1], [0, 0]] and two.experts.dtype == np.int32
    assert two.start_ns.tolist() == [20, 0] and two.ns.tolist() == [2, 0]
    assert three.layers.tolist() == [1] and three.experts.tolist() == [[1, 2, 3]]


def test_what_was_told_stays_when_the_next_token_is_written_and_forgotten() -> None:
    """The room is used again; the event has a copy."""
    choices = Choices(1)
    ids, weights = choices.room(0, 1)
    ids[:], weights[:] = 7, 1
    choices.note((1, 0, 5, 6))
    (told,) = choices.told()
    choices.forget()
    ids[:], weights[:] = 8, 2
    assert told.experts.tolist() == [[7]] and told.weights.tolist() == [[1]]
    assert told.start_ns.tolist() == [5] and choices.told() == []
