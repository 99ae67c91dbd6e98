"""Two views of one run have the same numbers and words, also if the run was cut short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import outlier_jupyter
from outlier_jupyter.events import CallStarted, Routed
from outlier_jupyter.formatting import percent, three
from outlier_jupyter.notebook.chat.chat import Chat
from outlier_jupyter.notebook.chat.saved_chat import bundle
from outlier_jupyter.notebook.live.finished_run import frame_of_run
from outlier_jupyter.notebook.live.frame_builder import FrameBuilder
from outlier_jupyter.notebook.live.frames import Frame
from outlier_jupyter.notebook.live.show import last_frame, make_frame_builder
from outlier_jupyter.notebook.render.static import SavedView
from outlier_jupyter.notebook.render.static.text import table, tiles
from outlier_jupyter.runs.run import Interrupted, Run

ROOT = Path(__file__).parents[2]


def watched(engine, layer: int, call: int, **options) -> tuple[Run, Frame]:
    """A run stopped in a layer of a call, and what its live view shows last."""
    feed = make_frame_builder(engine, lambda frame: None)
    calls = []

    def stop(event) -> None:
        if type(event) is CallStarted:
            calls.append(event)
        elif len(calls) == call and event.layer == layer:
            engine.stop()

    forget = [
        engine.subscribe(feed, *FrameBuilder.KINDS),
        engine.subscribe(stop, CallStarted, Routed),
    ]
    try:
        run = engine.generate("the same in all views", max_tokens=9, prefill_chunk=6, **options)
    except Interrupted as stopped:
        run = stopped.run
    for end in forget:
        end()
    return run, last_frame(feed, run)


@pytest.mark.parametrize("call", [1, 2, 5, 99])
def test_the_live_view_ends_with_the_numbers_that_stay(tiny, call: int) -> None:
    """Totals are the trace's, for a run cut in the prompt's second chunk or in a token, or whole.

    So are residency, counts and tokens, also one that only the prompt's last call produced.
    """
    with outlier_jupyter.load(tiny, cache_experts=10) as engine:
        run, frame = watched(engine, 1, call)
    live_totals, kept = frame.totals, frame_of_run(run)
    assert live_totals._replace(elapsed_ns=0, evictions=0) == kept.totals._replace(
        elapsed_ns=0, evictions=0
    )
    for name in ("count_index", "count", "change_index", "first_token"):
        assert (
            (getattr(frame, name) == getattr(kept, name)).all()
            if name != "first_token"
            else (frame.first_token == kept.first_token)
        )
    generated = live_totals.steps - min(frame.first_token, live_totals.steps)
    assert generated == run.generated
    s = run.summary()
    if live_totals.decode_lookups:
        assert live_totals.decode_hits / live_totals.decode_lookups == pytest.approx(
            s.decode_hit_rate
        )
    if others := live_totals.lookups - live_totals.decode_lookups:
        prefill = (live_totals.hits - live_totals.decode_hits) / others
        assert prefill == pytest.approx(s.prefill_hit_rate)
    assert (live_totals.reads, live_totals.nbytes) == (s.reads, s.bytes_read)


def test_a_run_of_one_token_has_one(tiny) -> None:
    """The prompt's last call produced its only token: it has no decode call."""
    with outlier_jupyter.load(tiny, cache_experts=10) as engine:
        feed = make_frame_builder(engine, lambda frame: None)
        forget = engine.subscribe(feed, *FrameBuilder.KINDS)
        run = engine.generate("one", max_tokens=1)
        forget()
    frame = feed.snapshot()
    assert run.generated == frame.totals.steps - frame.first_token == 1


def test_both_phases_hit_rates_are_everywhere(tiny) -> None:
    """Summary, table and a chat's answer name the phase, and give the same two numbers; so does the
    tile of decode.
    """
    with outlier_jupyter.load(tiny, cache_experts=10) as engine:
        chat = Chat(engine, max_tokens=8)
        run = chat.send("what is told of this?")
        answer = bundle("tiny", chat.runner.conversations)["text/plain"]
        numbers = chat.messages[-1].numbers
        chat.close()
    s = run.summary()
    decode, prefill = percent(s.decode_hit_rate), percent(s.prefill_hit_rate)
    assert decode != prefill != percent(s.hit_rate)
    assert f"hit rate in decode {decode}, in prefill {prefill}" in str(s)
    shown = SavedView(run.text, run.trace, run.finish_reason, run.prompt)
    assert (decode, "hit rate (decode)") in tiles(shown.trace)
    rows = dict(table(shown))
    assert (rows["Hit rate in decode"], rows["Hit rate in prefill"]) == (decode, prefill)
    assert f"hit rate in decode {decode} · hit rate in prefill {prefill}" in answer
    assert numbers["decode_hit_rate"] == pytest.approx(s.decode_hit_rate, abs=1e-4)


def test_the_static_view_has_the_tiles_of_the_live_one(tiny) -> None:
    """The same names in the same order, and the time to the first token as the page adds it up."""
    source = (ROOT / "js" / "src" / "live" / "header.ts").read_text()
    (names,) = re.findall(r"const TILES = \[(.*?)\] as const", source)
    with outlier_jupyter.load(tiny, cache_experts=10) as engine:
        run = engine.generate("the same in all views", max_tokens=5, prefill_chunk=6)
    shown = tiles(run.trace)
    assert [name for _, name in shown] == re.findall(r'"(.*?)"', names)
    frame = frame_of_run(run)
    first = frame.steps["token_ms"][: frame.first_token + 1].sum()
    assert {name: number for number, name in shown}["time to first token"] in (
        f"{three(first)} ms", f"{three(first / 1000)} s",
    )  # fmt: skip
