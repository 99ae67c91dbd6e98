"""The parts of a token's time are the same in every view, for any run."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import outlier_jupyter
from outlier_jupyter.events import (
    DECODE,
    PREFILL,
    CallStarted,
    Event,
    PagedIn,
    PromptEncoded,
    ResidentLayers,
    Routed,
    RunDone,
    Served,
    StepDone,
    TextProduced,
    Waited,
)
from outlier_jupyter.formatting import three
from outlier_jupyter.notebook.live.finished_run import frame_of_run
from outlier_jupyter.notebook.live.frame_builder import FrameBuilder
from outlier_jupyter.notebook.live.frames import Frame
from outlier_jupyter.notebook.live.show import make_frame_builder
from outlier_jupyter.notebook.live.widget import LiveView
from outlier_jupyter.notebook.render.static.report import SECTIONS
from outlier_jupyter.notebook.render.static.report_charts import time_parts as chart_of
from outlier_jupyter.runs.run import Run
from outlier_jupyter.trace import TraceInfo
from outlier_jupyter.trace.explanation_text import parts as told_parts
from outlier_jupyter.trace.recorder import Recorder
from outlier_jupyter.trace.time_parts import PARTS, meaning, part_name, parts_with

LAYERS, EXPERTS, K = 3, 6, 2
NS = st.integers(1_000, 3_000_000)


@st.composite
def calls(draw: st.DrawFn, kernels: str) -> list[Event]:
    """The events of a run, with clocks that are nested as an engine's are.

    Compiled kernels read ids back at once, compute at once, submit reads within the time of the
    lookup, wait while they compute, and report resident layers together. MLX's wait for the ids.
    Some runs have a foreign engine's switches, which do not report their own time.
    """
    cpu = kernels == "cpu"
    events: list[Event] = [PromptEncoded(np.zeros(5, np.int32), 0)]
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2)) + [1] * draw(
        st.integers(1, 5)
    )
    for number, tokens in enumerate(sizes):
        phase = PREFILL if tokens > 1 or number == 0 else DECODE
        tells = draw(st.integers(0, 9)) > 0
        at = start = 1_000_000 * number
        events.append(CallStarted(phase, np.zeros(tokens, np.int32), start))
        served: list[Event] = []
        inside = 0
        held = cpu and tokens == 1 and draw(st.booleans())
        for layer in range(LAYERS):
            at += draw(NS)
            ids = np.array([draw(st.permutations(range(EXPERTS)))[:K]] * tokens, np.int32)
            if held and layer > 0:
                spent = draw(NS)
                experts, weights = ids.astype(np.int32), np.ones((1, K), np.float32)
                where = np.array([layer]), experts, weights, np.array([at]), np.array([spent])
                served.append(ResidentLayers(*where))
                at, inside = at + spent, inside + spent
                continue
            route, book, wait, install, experts_ns, told = (draw(NS) for _ in range(6))
            # The lookup time that the router reports includes submitting the reads.
            handed = draw(NS) if cpu else 0
            hits = np.full(ids.shape, draw(st.booleans()))
            events.append(Routed(layer, ids, hits, route, book + handed))
            if not hits.all():
                events.append(PagedIn(layer, int(ids[0, 0]), 0, 100, at, wait))
            events.append(Waited(layer, wait, install))
            whole = route + book + wait + install + experts_ns + told
            if tells:
                served.append(Served(layer, at, whole, experts_ns, told))
            at, inside = at + whole, inside + whole
        events += served
        sample, before = draw(NS), draw(NS)
        forward = at - start + draw(NS)
        ns = before + forward + sample + draw(NS)
        events.append(StepDone(number, ns, sample, forward, before))
        events.append(TextProduced(f" t{number}"))
    return [*events, RunDone("length")]


def played(events: list[Event], kernels: str) -> tuple[Run, Frame]:
    """Recorder and feed process the same events: a run, and the live view's last frame."""
    nobody = np.zeros((0, 2), np.int16)
    recorder = Recorder(LAYERS, 8, nobody)
    feed = FrameBuilder(
        **{"layers": LAYERS, "experts": EXPERTS, "slots": 8, "resident_at_start": nobody},
        on_frame=lambda frame: None,
        kernels=kernels,
        interval_ms=0,
    )
    for event in events:
        feed(event)
        if isinstance(event, ResidentLayers) or type(event) in Recorder.KINDS:
            recorder(event)
    shape = {"layer_names": ("a", "b", "c"), "experts_per_layer": (EXPERTS,) * LAYERS}
    info = TraceInfo(**shape, expert_nbytes=(100,) * LAYERS, slots=8, kernels=kernels)
    trace = recorder.trace(info)
    tokens = trace.produced[trace.produced >= 0]
    text = "".join(f" t{number}" for number in range(len(trace.calls)))
    ends = np.cumsum([3] * len(tokens)).astype(np.int32)
    return Run("asked", "asked", text, tokens, "length", trace, ends), feed.snapshot()


def by_part(frame: Frame, kernels: str) -> dict[str, np.ndarray]:
    """The parts that the live view draws: the frame's columns, by the names in its header."""
    told = outlier_jupyter.notebook.live.widget.header(TraceInfo(kernels=kernels), "")["parts"]
    return {part["name"]: frame.steps["parts_ms"][:, part["column"]] for part in told}


@pytest.mark.parametrize("kernels", ["cpu", "mlx"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_all_views_divide_a_token_s_time_alike(kernels: str, data: st.DataObject) -> None:
    """Live view, replay, `times()`, `explain` and report: same parts, same words, whole sums."""
    run, frame = played(data.draw(calls(kernels)), kernels)
    trace, times = run.trace, run.trace.times()
    live, replayed = by_part(frame, kernels), by_part(frame_of_run(run), kernels)
    for name in PARTS:
        column = times[f"{name}_ms"]
        if name not in parts_with(kernels):
            assert column.isna().all()
            continue
        np.testing.assert_allclose(live[part_name(name)], column, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(replayed[part_name(name)], column, rtol=1e-5, atol=1e-6)
    whole = times["ms"].to_numpy()
    np.testing.assert_allclose(np.sum(list(live.values()), axis=0), whole, rtol=1e-5)
    np.testing.assert_allclose(frame.steps["token_ms"], whole, rtol=1e-5, atol=1e-6)
    for number in range(1, run.generated + 1):
        told = run.explain(number)
        call = trace.calls[trace.call[run.step_of(number)]]
        assert told.ms == pytest.approx(call["ns"] / 1e6)
        assert sum(told.parts.values()) == pytest.approx(told.ms, abs=1e-6)
        step = run.step_of(number)
        for name, ms in told.parts.items():
            one = float(live[part_name(name)][step]) * int(call["steps"])
            assert one == pytest.approx(ms, rel=1e-4, abs=1e-5)
        for words, spent, _, means in told_parts(told):
            name = next(name for name in told.parts if part_name(name) == words)
            assert (spent, means) == (f"{three(told.parts[name])} ms", meaning(name, kernels))
    assert_reported(run, live)


def assert_reported(run: Run, live: dict[str, np.ndarray]) -> None:
    """The report's table and chart have the live view's means of decode, by the same names."""
    decode = run.trace.phase == DECODE
    html = unescape("".join(SECTIONS["Where the time went"](run)))
    rows = dict(re.findall(r"<tr><td>([^<]*)</td><td>([^<]*) ms</td>", html))
    means = {name: float(values[decode].mean()) for name, values in live.items()}
    for name, mean in means.items():
        if live[name][decode].max() >= 0.001:
            assert float(rows.pop(name)) == pytest.approx(mean, rel=0.01, abs=0.001)
    assert all(means[name] < 0.001 for name in rows)
    spoken = chart_of(run.trace).spoken
    said = {name: re.search(rf"{re.escape(name)} ([\d.]+) ms", spoken) for name in means}
    shown = {name: float(found[1]) for name, found in said.items() if found}
    assert len(shown) == 4
    for name, ms in shown.items():
        assert ms == pytest.approx(means[name], rel=0.01, abs=0.001)


def test_a_switch_s_own_time_is_not_counted_twice() -> None:
    """The lookup's raw time includes submitting reads, and no part counts it twice."""
    ids, start = np.zeros((1, 1), np.int32), CallStarted(DECODE, np.zeros(1, np.int32), 0)
    events = [
        start,
        Routed(0, ids, np.zeros((1, 1), bool), 100_000, 9_250_000),
        Waited(0, 8_710_000, 50_000),
        Served(0, 0, 10_000_000, 300_000, 64_000),
        StepDone(1, 11_800_000, 500_000, 11_200_000, 100_000),
        RunDone("length"),
    ]
    run, frame = played([*events], "cpu")
    live = by_part(frame, "cpu")
    assert live["cache lookup"].tolist() == pytest.approx([0.776])
    assert live["waiting for reads"].tolist() == pytest.approx([8.71])
    assert live["dense compute"].tolist() == pytest.approx([1.2])
    assert sum(value[0] for value in live.values()) == pytest.approx(11.8)
    assert run.trace.times().lookup_ms.tolist() == pytest.approx([0.776])


def test_measurements_that_overlap_do_not_exceed_the_token() -> None:
    """In traces of the first version, lookup includes waiting for reads: it is shortened."""
    run, _ = played([CallStarted(DECODE, np.zeros(1, np.int32), 0),
                     StepDone(1, 10_000_000, 1_000_000), RunDone("length")], "mlx")  # fmt: skip
    calls_ = run.trace.calls.copy()
    calls_["read_wait_ns"], calls_["lookup_ns"] = 8_000_000, 9_000_000
    times = replace(run.trace, calls=calls_).times()
    assert times.read_wait_ms.tolist() == [8.0] and times.lookup_ms.tolist() == [1.0]
    assert times.other_ms.tolist() == [0.0] and times.graph_ms.isna().all()


@pytest.mark.parametrize("kernels", ["auto", "mlx"])
@pytest.mark.parametrize("reader", ["pread", "mmap"])
def test_a_real_run_is_divided_live_as_it_is_afterwards(tiny, kernels, reader) -> None:
    """For an engine's own events, all parts in the frame are those of `times()`."""
    with outlier_jupyter.load(tiny, cache_experts=10, kernels=kernels, reader=reader) as engine:
        feed = make_frame_builder(engine, lambda frame: None)
        forget = engine.subscribe(feed, *FrameBuilder.KINDS)
        run = engine.generate("divided", max_tokens=12, prefill_chunk=4)
        forget()
        live = by_part(feed.snapshot(), engine.info.kernels)
    times = run.trace.times()
    for name in parts_with(engine.info.kernels):
        np.testing.assert_allclose(live[part_name(name)], times[f"{name}_ms"], 1e-5, 1e-6)
    np.testing.assert_allclose(np.sum(list(live.values()), axis=0), times["ms"], rtol=1e-5)
    view = LiveView.of(run)
    assert view.info["parts"] == outlier_jupyter.notebook.live.widget.time_parts(
        engine.info.kernels
    )
