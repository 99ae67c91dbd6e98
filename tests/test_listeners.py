"""Who hears what of a run."""

from __future__ import annotations

from outlier_jupyter.events import Event, Resized, RunDone, TextProduced
from outlier_jupyter.listeners import Listeners


def test_a_listener_hears_the_kinds_it_named_and_the_recorder_hears_all_first() -> None:
    """Without kinds everything is heard; nothing after the run, and nothing once unsubscribed."""
    tell, heard = Listeners(), list[tuple[str, Event]]()
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


def test_one_that_raises_is_dropped_and_the_others_go_on(caplog) -> None:
    """It is not called again in this run; the log names it."""
    tell, heard = Listeners(), list[Event]()

    def broken(event: Event) -> None:
        heard.append(event)
        raise ValueError("mine")

    tell.subscribe(broken)
    tell.begin(heard.append)
    tell(TextProduced("a"))
    tell(TextProduced("b"))
    assert len(heard) == 3
    assert "broken" in caplog.text and "is not called again" in caplog.text
