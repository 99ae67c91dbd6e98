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


def test_a_listener_hears_the_kinds_it_named_and_the_recorder_hears_all_first() -> None:
    """Without kinds a subscriber receives every event; none after the run or once unsubscribed."""
    tell, heard = EventBus(), list[tuple[str, Event]]()
    tell.subscribe(lambda event: heard.append(("all", event)))
    end = tell.subscribe(lambda event: heard.append(("text", event)), TextProduced)
    tell.begin(lambda event: heard.append(("recorder", event)))
    text, over = TextProduced("a"), RunDone("stop")
    tell(text)
    tell(over)
    assert heard == [
        *(("recorder", text), ("all", text), ("text", text)),
        *(("recorder", over), ("all", over)),
    ]
    tell.end()
    tell(text)
    end()
    tell.begin(lambda event: None)
    tell(text)
    assert heard[5:] == [("all", text)]
    tell.between_runs(Resized(3))
    assert heard[6:] == [("all", Resized(3))]


def test_layers_told_together_are_told_singly_to_who_does_not_name_them() -> None:
    """The individual events have the same content, in order of the kinds, then of the layers."""
    tell, whole, single, routed = EventBus(), list[Event](), list[Event](), list[Event]()
    tell.subscribe(single.append)
    tell.subscribe(routed.append, Routed)
    tell.begin(whole.append, ResidentLayers)
    layers, start, ns = (np.array(numbers) for numbers in ([2, 0], [10, 30], [5, 6]))
    experts, weights = np.array([[1, 4], [3, 0]], np.int32), np.ones((2, 2), np.float32)
    weights[1] = 0.25
    tell(ResidentLayers(layers, experts, weights, start, ns))
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
    tell, heard = EventBus(), list[Event]()

    def broken(event: Event) -> None:
        heard.append(event)
        raise ValueError("mine")

    tell.subscribe(broken)
    tell.begin(heard.append)
    tell(TextProduced("a"))
    tell(TextProduced("b"))
    assert len(heard) == 3
    assert "broken" in caplog.text and "is not called again" in caplog.text


def test_one_that_has_heard_enough_is_called_no_more_in_this_run(caplog) -> None:
    """Nothing is logged; others continue, and the next run calls it again."""
    tell, heard, others = EventBus(), list[Event](), list[Event]()

    def once(event: Event) -> None:
        heard.append(event)
        raise Unsubscribe

    tell.subscribe(once)
    tell.subscribe(others.append)
    for run in (1, 2):
        tell.begin(lambda event: None)
        tell(TextProduced("a"))
        tell(TextProduced("b"))
        tell.end()
        assert len(heard) == run and len(others) == 2 * run
    assert not caplog.records
