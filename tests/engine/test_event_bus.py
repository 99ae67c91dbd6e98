"""Which subscriber receives which events of a run."""

from __future__ import annotations

import numpy as np

from outlier_jupyter.engine.event_bus import EventBus
from outlier_jupyter.events import (
    Event,
    ResidentLayers,
    Resized,
    Routed,
    RunDone,
    Served,
    TextProduced,
    Unsubscribe,
    Weighed,
)


def test_a_subscriber_receives_the_kinds_it_named_and_the_recorder_all_first() -> None:
    """Without kinds a subscriber receives every event; none after the run or once unsubscribed."""
    bus, received = EventBus(), list[tuple[str, Event]]()
    bus.subscribe(lambda event: received.append(("all", event)))
    end = bus.subscribe(lambda event: received.append(("text", event)), TextProduced)
    bus.begin(lambda event: received.append(("recorder", event)))
    text, over = TextProduced("a"), RunDone("stop")
    bus(text)
    bus(over)
    assert received == [
        *(("recorder", text), ("all", text), ("text", text)),
        *(("recorder", over), ("all", over)),
    ]
    bus.end()
    bus(text)
    end()
    bus.begin(lambda event: None)
    bus(text)
    assert received[5:] == [("all", text)]
    bus.between_runs(Resized(3))
    assert received[6:] == [("all", Resized(3))]


def test_subscribers_that_do_not_name_resident_layers_receive_single_events() -> None:
    """The individual events have the same content, in order of the kinds, then of the layers."""
    bus, whole, single, routed = EventBus(), list[Event](), list[Event](), list[Event]()
    bus.subscribe(single.append)
    bus.subscribe(routed.append, Routed)
    bus.begin(whole.append, ResidentLayers)
    layers, start, ns = (np.array(numbers) for numbers in ([2, 0], [10, 30], [5, 6]))
    experts, weights = np.array([[1, 4], [3, 0]], np.int32), np.ones((2, 2), np.float32)
    weights[1] = 0.25
    bus(ResidentLayers(layers, experts, weights, start, ns))
    assert [type(event) for event in whole] == [ResidentLayers]
    assert [type(event) for event in routed] == [Routed, Routed]
    assert [type(event) for event in single] == [Routed] * 2 + [Weighed] * 2 + [Served] * 2
    for at, layer in enumerate((2, 0)):
        chose, weighed, served = single[at], single[2 + at], single[4 + at]
        assert isinstance(chose, Routed) and isinstance(weighed, Weighed)
        assert chose.layer == weighed.layer == layer and chose.hits.all()
        assert chose.experts.tolist() == [experts[at].tolist()]
        assert weighed.weights.tolist() == [weights[at].tolist()]
        assert served == Served(layer, int(start[at]), int(ns[at]), int(ns[at]), 0)


def test_one_that_raises_is_dropped_and_the_others_go_on(caplog) -> None:
    """It is not called again in this run, and the log names it."""
    bus, received = EventBus(), list[Event]()

    def broken(event: Event) -> None:
        received.append(event)
        raise ValueError("mine")

    bus.subscribe(broken)
    bus.begin(received.append)
    bus(TextProduced("a"))
    bus(TextProduced("b"))
    assert len(received) == 3
    assert "broken" in caplog.text and "is not called again" in caplog.text


def test_a_subscriber_that_has_enough_is_called_no_more_in_this_run(caplog) -> None:
    """Nothing is logged; others continue, and the next run calls it again."""
    bus, received, others = EventBus(), list[Event](), list[Event]()

    def once(event: Event) -> None:
        received.append(event)
        raise Unsubscribe

    bus.subscribe(once)
    bus.subscribe(others.append)
    for run in (1, 2):
        bus.begin(lambda event: None)
        bus(TextProduced("a"))
        bus(TextProduced("b"))
        bus.end()
        assert len(received) == run and len(others) == 2 * run
    assert not caplog.records
