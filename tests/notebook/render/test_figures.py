"""The plotly figures show the measures, and a sentence when there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import pytest

from outlier_jupyter.errors import OptionError
from outlier_jupyter.events import DECODE
from outlier_jupyter.notebook.render.figures import MAX_BINS, Figures
from outlier_jupyter.notebook.render.figures.style import log_ticks
from outlier_jupyter.notebook.render.palette import EITHER
from outlier_jupyter.trace import Trace
from outlier_jupyter.trace.measures import (
    bytes_per_token,
    frequency,
    hits_per_step,
    read_latency_per_step,
    residency,
)

MakeTrace = Callable[..., Trace]


def words(figure: go.Figure) -> str:
    """All annotations and the title of a figure."""
    notes = [note.text for note in figure.layout.annotations]
    return " ".join([figure.layout.title.text, *notes])


def all_figures(trace: Trace) -> list[go.Figure]:
    """The three figures of a trace with their defaults."""
    figures = Figures(trace)
    return [figures.routing(), figures.residency(), figures.latency()]


def named(figure: go.Figure, name: str) -> go.Scatter | go.Bar:
    """The trace of a figure with this name."""
    return next(part for part in figure.data if part.name == name)


def test_routing_shows_the_counts(make_trace: MakeTrace) -> None:
    """The heatmap's values are `frequency`, and its hover the share of the layer's choices."""
    trace = make_trace()
    heatmap = Figures(trace).routing().data[0]
    counts = frequency(trace)
    np.testing.assert_array_equal(heatmap.z, counts)
    np.testing.assert_allclose(heatmap.customdata, counts / counts.sum(1, keepdims=True))
    assert "times chosen" in heatmap.colorbar.title.text


@pytest.mark.parametrize("phase", ["decode", DECODE])
def test_routing_of_one_phase(make_trace: MakeTrace, phase: str | int) -> None:
    """A phase is named or numbered, and only its steps are counted."""
    trace = make_trace()
    figure = Figures(trace).routing(phase)
    np.testing.assert_array_equal(figure.data[0].z, frequency(trace, DECODE))
    assert "decode" in figure.layout.title.text


def test_residency_shows_slots_hits_and_misses(make_trace: MakeTrace) -> None:
    """The panels' values are `residency` at the requested step and `hits_per_step`."""
    trace = make_trace()
    figure = Figures(trace).residency(step=-5)
    np.testing.assert_array_equal(figure.data[0].z, residency(trace, trace.steps - 5))
    hits, misses = hits_per_step(trace)
    np.testing.assert_array_equal(named(figure, "hits").y, hits)
    np.testing.assert_array_equal(named(figure, "misses").y, misses)
    assert figure.layout.barmode == "stack"
    assert "prefill" in words(figure)


def test_latency_shows_quantiles_and_bytes(make_trace: MakeTrace) -> None:
    """In decode each line is its quantile, NaN where nothing was read; the bars are MB."""
    trace = make_trace(slots=50)
    figure = Figures(trace).latency()
    decode = trace.phase == DECODE
    expected = read_latency_per_step(trace)[decode]
    assert np.isnan(expected).any() and not np.isnan(expected).all()
    for column, name in enumerate(("p50", "p95", "max")):
        line = named(figure, name)
        np.testing.assert_allclose(np.asarray(line.y)[decode], expected[:, column])
        assert line.connectgaps is False
    np.testing.assert_allclose(named(figure, "MB read").y, bytes_per_token(trace) / 1e6)


def test_tokens_have_the_numbers_of_the_live_view(make_trace: MakeTrace) -> None:
    """Token 6 is at 6 in each figure, and the prompt, by its own name, before token 1."""
    trace = make_trace()
    first = int(np.flatnonzero(trace.phase == DECODE)[0])  # of the token after the first if known
    produced = np.flatnonzero(trace.produced >= 0)
    first = int(produced[0]) if len(produced) else first
    for figure, name in (
        (Figures(trace).latency(), "MB read"),
        (Figures(trace).residency(), "hits"),
    ):
        bars = named(figure, name)
        assert bars.x[first + 5] == 6 and bars.x[0] == 1 - first
        names = [str(np.atleast_1d(each)[0]) for each in bars.customdata]
        assert names[first + 5] == "token 6" and names[0] == "prompt token 1"
        ticks = figure.layout.xaxis2.tickvals
        assert min(ticks) >= 1 and max(ticks) <= trace.steps - first


def test_latency_turns_logarithmic_for_one_slow_read(make_trace: MakeTrace) -> None:
    """A read a hundred times slower than the rest makes the axis logarithmic, as its title says."""
    trace = make_trace()
    assert Figures(trace).latency().layout.yaxis.type != "log"
    trace.reads["ns"][-1] = 100 * trace.reads["ns"].max()
    axis = Figures(trace).latency().layout.yaxis
    assert axis.type == "log" and "log" in axis.title.text
    assert list(axis.ticktext) == [f"{value:,.10g}" for value in axis.tickvals]
    assert log_ticks(0.15, 15)[:4] == [0.1, 0.2, 0.5, 1] and log_ticks(1e-3, 1e3)[1] == 0.01


def test_long_runs_are_binned(make_trace: MakeTrace) -> None:
    """Beyond the limit the bars are bins of steps, and the axis title says how many."""
    trace = make_trace(steps=2 * MAX_BINS + 5, layers=1, experts=8, slots=6)
    figure = Figures(trace).residency()
    bars = named(figure, "hits")
    assert len(bars.x) <= MAX_BINS
    assert "bins of 3)" in figure.layout.xaxis2.title.text
    np.testing.assert_allclose((bars.y * bars.width).sum(), hits_per_step(trace)[0].sum())


def test_titles_name_model_steps_and_reader(make_trace: MakeTrace) -> None:
    """Each title names the model, escaped, the tokens and the reader."""
    for figure in all_figures(make_trace(model="<b>m</b>", reader="direct")):
        assert "&lt;b&gt;m&lt;/b&gt;" in words(figure)
        assert "10 tokens of the prompt and 30 generated" in words(figure)
        assert "reads past the page cache (direct)" in words(figure)
        assert "not the model's own output" not in words(figure)


def test_changed_output_is_on_every_figure(make_trace: MakeTrace) -> None:
    """A run whose output is not the model's own says so under each title, data or not."""
    for steps in (40, 0):
        trace = make_trace(steps=steps, prompt=min(steps, 10), changed_output="top_k=1")
        assert all("top_k=1" in words(figure) for figure in all_figures(trace))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"steps": 5, "layers": 0, "experts": 0, "k": 0}, "dense"),
        ({"steps": 0, "prompt": 0}, "no token"),
    ],
)
def test_nothing_to_show(make_trace: MakeTrace, shape: dict[str, int], reason: str) -> None:
    """For a dense model and a run of no steps, titled figures name the reason."""
    for figure in all_figures(make_trace(**shape)):
        assert "no data" in words(figure) and reason in words(figure)
        assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text
        assert not figure.data


def test_a_phase_that_did_not_happen(make_trace: MakeTrace) -> None:
    """For a run stopped in prefill, the figures of decode say that there is none."""
    assert "no token of this run was in decode" in words(
        Figures(make_trace(steps=8, prompt=8)).routing("decode")
    )


def test_wrong_arguments_are_named(make_trace: MakeTrace) -> None:
    """An unknown phase or a step outside the run is refused with the valid values."""
    figures = Figures(make_trace())
    with pytest.raises(OptionError, match="'decode'"):
        figures.routing("decoding")
    for step in (40, -41):
        with pytest.raises(OptionError, match="40 steps"):
            figures.residency(step)
    with pytest.raises(OptionError, match="0 steps"):
        Figures(make_trace(steps=0, prompt=0)).residency(0)


def test_layers_of_different_width(make_trace: MakeTrace) -> None:
    """Cells beyond a layer's experts are holes, not experts that were never chosen."""
    trace = make_trace(layers=2, experts=8, experts_per_layer=(8, 12))
    assert np.isnan(np.asarray(Figures(trace).routing().data[0].z)[0, 8:]).all()


def test_repr_names_the_methods(make_trace: MakeTrace) -> None:
    """Evaluating `figures` in a cell lists its methods."""
    assert ".latency()" in repr(Figures(make_trace()))


def test_figures_read_on_light_and_on_dark_pages(make_trace: MakeTrace) -> None:
    """They have no background, and every colour of text and marks contrasts with either page."""
    for figure in all_figures(make_trace()):
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == EITHER.surface
        assert figure.layout.font.color == EITHER.ink
    marks = ("resident", "hit", "miss", "p50", "p95", "top", "warn")
    for role, least in (*dict.fromkeys(marks, 3.0).items(), ("ink", 4.0), ("muted", 4.0)):
        for ground in ("#ffffff", "#111111", "#1f1f1f"):
            assert contrast(getattr(EITHER, role), ground) >= least, (role, ground)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours like #1f2328."""
    lights = []
    for colour in (one, other):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ (0.2126, 0.7152, 0.0722)) + 0.05)
    return max(lights) / min(lights)
