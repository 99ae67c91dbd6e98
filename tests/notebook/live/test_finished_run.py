"""A finished run in the live view: its frame is the one that a feed would have sent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.live.finished_run import frame_of_run
from outlier_jupyter.notebook.live.frames import decode, encode
from outlier_jupyter.notebook.live.widget import LiveView
from outlier_jupyter.runs.run import Run
from outlier_jupyter.trace import Trace
from tests.notebook.live.test_frame_builder import (
    MakeTrace,
    assert_moves_tell_residency,
    fed,
    recorded,
)


def run_of(trace: Trace) -> Run:
    """A run in which every call produces some text, as in `events_of`."""
    said = [f" t{row}" for row in range(len(trace.calls))]
    return Run(
        prompt="Say so",
        encoded="Say so",
        text="".join(said),
        tokens=np.ones(len(said), np.int32),
        finish_reason="length",
        trace=trace,
        text_ends=np.cumsum([len(text) for text in said]).astype(np.int32),
    )


@given(
    st.integers(1, 20), st.integers(1, 4), st.integers(1, 3), st.integers(6, 30), st.integers(0, 9)
)
@settings(max_examples=25, deadline=None)
def test_a_run_is_told_as_its_feed_told_it(
    make_trace: MakeTrace, prompt: int, layers: int, k: int, slots: int, seed: int
) -> None:
    """Its frame equals the feed's last snapshot; only the clock and the run's number differ."""
    shape = {"layers": layers, "k": k, "experts": 9, "slots": slots}
    made = make_trace(steps=24, prompt=prompt, seed=seed, **shape)
    feed, _ = fed(made)
    told = feed.snapshot()
    frame = frame_of_run(run_of(recorded(made)))
    for name in told.steps.dtype.names or ():
        np.testing.assert_allclose(frame.steps[name], told.steps[name], rtol=1e-5, err_msg=name)
    for name in ("count_index", "count", "change_index", "experts_of", "hits_of", "move_step"):
        np.testing.assert_array_equal(getattr(frame, name), getattr(told, name), err_msg=name)
    assert frame.totals._replace(elapsed_ns=0) == told.totals._replace(elapsed_ns=0)
    assert (frame.text, frame.slots, frame.final) == (told.text, told.slots, True)
    assert frame.first_token == told.first_token
    assert_moves_tell_residency(frame, recorded(made))


def test_text_offsets_are_those_of_a_browser(make_trace: MakeTrace) -> None:
    """A character beyond the first plane counts as two, as it does in JavaScript."""
    run = run_of(recorded(make_trace(steps=3, prompt=1)))
    run = replace(run, text="a\N{EARTH GLOBE EUROPE-AFRICA}b", text_ends=np.array([1, 2, 3], "i4"))
    assert frame_of_run(run).steps["text_end"].tolist() == [1, 3, 4]


@pytest.mark.parametrize("steps", [0, 3])
def test_a_run_without_ends_or_steps_can_be_seen(make_trace: MakeTrace, steps: int) -> None:
    """A run that was cut short at once, or whose token ends are unknown, still has a view."""
    trace = make_trace(steps=steps, prompt=0)
    run = replace(run_of(trace), text_ends=np.zeros(0, np.int32))
    view = LiveView.of(run)
    assert decode(view.snapshot) == frame_of_run(run) == decode(encode(frame_of_run(run)))
    assert view.status == "length" and view.info["prompt"] == "Say so"
    assert isinstance(run.view(), LiveView)


def test_a_run_is_shown_at_a_pace(make_trace: MakeTrace) -> None:
    """`view(pace=8)` tells the page so; without a pace the page is told nothing of one."""
    run = run_of(make_trace(steps=3, prompt=0))
    assert run.view(pace=8).info["pace"] == 8 and "pace" not in run.view().info
    for bad in (0, -1, float("nan"), "fast", True):
        with pytest.raises(OptionError, match="pace="):
            run.view(pace=bad)
