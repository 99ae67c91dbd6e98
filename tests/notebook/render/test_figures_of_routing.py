"""The figures of routing and of comparisons show computed values, readable without colour."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from outlier_jupyter import compare
from outlier_jupyter.notebook.render.figures import Figures
from outlier_jupyter.trace.cost_model import fit
from outlier_jupyter.trace.routing_measures import over_time, routing_measures
from tests.trace.test_atlas import planted
from tests.trace.test_divergence import sticky
from tests.trace.test_routing_measures import routed


def signs(figure: go.Figure) -> list[str]:
    """The marker symbols of a figure's traces."""
    return [part.marker.symbol for part in figure.data if part.type != "heatmap"]


def titles(figure: go.Figure) -> str:
    """All titles of a figure."""
    axes = [figure.layout[name].title.text for name in figure.layout if name.startswith("yaxis")]
    return " ".join([figure.layout.title.text, *filter(None, axes)])


def test_measures_are_lines_with_signs_of_their_own() -> None:
    """Each line is its measure; within a panel no two share a sign or a dash."""
    trace = sticky(1)
    figure = Figures(trace).measures()
    lines = {part.name: part for part in figure.data}
    found = routing_measures(trace)
    np.testing.assert_allclose(lines["Gini"].y, found.gini)
    np.testing.assert_allclose(lines["first uses"].y, found.first_uses)
    for panel in ("legend", "legend2", "legend3"):
        own = [(p.marker.symbol, p.line.dash) for p in figure.data if p.legend == panel]
        assert len(own) > 1 and len(set(own)) == len({sign for sign, _ in own}) == len(own)
    assert "share (0 to 1)" in titles(figure)


def test_a_phase_without_steps_says_so() -> None:
    """A sentence replaces missing data."""
    figure = Figures(sticky(1)).measures("prefill")
    assert "no token of this run was in prefill" in figure.layout.annotations[0].text


def test_over_time_shows_the_bins() -> None:
    """Both maps have the computed values, layers by bins."""
    trace = sticky(1)
    entropy, overlap = Figures(trace).over_time().data
    np.testing.assert_allclose(entropy.z, over_time(trace).entropy.T)
    np.testing.assert_allclose(overlap.z, over_time(trace).overlap.T)


def test_the_atlas_marks_classes_by_signs() -> None:
    """Each class is a trace with its own sign, and all units are drawn once."""
    experts, words = planted()
    figure = Figures(routed(experts, (8,) * 3)).atlas(words)
    assert len(set(signs(figure))) == len(figure.data) == 2
    assert sum(len(part.x) for part in figure.data) == 24
    assert "co-activation" in titles(figure)


def test_no_two_classes_of_an_atlas_look_alike() -> None:
    """Of eight classes no two share a sign and a colour; without labels there is one plain sign."""
    experts = np.random.default_rng(0).integers(0, 4, (400, 2, 1))
    classes = np.arange(400) % 8
    experts += 4 * classes[:, None, None]
    run = Figures(routed(experts, (32, 32)))
    labelled = run.atlas([f"class {number}" for number in classes])
    looks = {(part.marker.symbol, part.marker.color) for part in labelled.data}
    assert len(looks) == len(labelled.data) >= 8
    assert signs(run.atlas()) == ["circle-open"]


def test_what_is_no_finding_is_drawn_hollow() -> None:
    """Layers beyond chance are filled, others hollow; experts beyond chance have triangles."""
    a, b = sticky(1), sticky(2)
    b.experts[:, 2] = 15 - b.experts[:, 2]
    a = replace(a, info=replace(a.info, model="<b>model</b>"))
    found = compare({"<i>a</i>": a, "b": b}, permutations=99)
    sure, open_ = found.figure().data
    assert (sure.marker.symbol, open_.marker.symbol) == ("circle", "circle-open")
    assert list(sure.x) == [2] and list(open_.x) == [0, 1, 3]
    heat, more, less = found.experts_figure().data
    np.testing.assert_allclose(heat.z, found.divergence().difference)
    assert len(more.x) + len(less.x) == len(found.experts()) > 0
    assert "<i>" not in found.figure().layout.title.text.replace("<br>", "")
    assert "bits" in titles(found.figure())


def test_a_long_warning_is_not_cut() -> None:
    """It wraps over several lines that fit a narrow page, and the plot makes room."""
    few = compare({"a": sticky(1, 24), "b": sticky(2, 24)}, permutations=49)
    figure, caution = few.figure(), few.divergence().caution
    lines = [re.sub("<[^>]*>", "", line) for line in figure.layout.title.text.split("<br>")]
    assert caution and caution in " ".join(lines)
    assert len(lines) > 3 and max(map(len, lines)) <= 88
    many = compare({"a": sticky(1), "b": sticky(2)}, permutations=49).figure()
    assert figure.layout.margin.t > many.layout.margin.t


def test_sizes_of_many_experts_are_drawn_by_their_logarithm() -> None:
    """Ticks are whole numbers; the sizes of a small model stay as they are."""
    wide = Figures(sticky(1, 60, layers=24)).what_if(slots=[24, 700])
    assert wide.layout.xaxis2.type == "log" and "logarithmic" in wide.layout.xaxis2.title.text
    assert list(wide.layout.xaxis2.ticktext) == ["50", "100", "200", "500"]
    assert Figures(sticky(1, 60)).what_if(slots=[8, 64]).layout.xaxis2.type != "log"


def test_predicted_speeds_say_by_what_and_how_far_off(make_trace) -> None:
    """Below the axis is the cost's own text; without known times there is no prediction."""
    trace = make_trace(slots=30)
    trace.calls["read_wait_ns"] = trace.calls["ns"] // 4
    cost = str(fit(trace))
    assert "median error" in cost
    message = re.sub("<[^>]*>", " ", Figures(trace).what_if().layout.xaxis2.title.text)
    assert f"Speeds are predicted: {cost}" in re.sub(" +", " ", message)
    assert "predicted" not in Figures(sticky(1)).what_if().layout.xaxis2.title.text


def test_the_matrix_puts_those_alike_together() -> None:
    """Cells are the matrix in the order of the clusters, labelled with their numbers."""
    runs = {"a": sticky(1), "far": sticky(3, liking=5), "b": sticky(2)}
    found = compare(runs, permutations=49)
    (heat,) = found.matrix_figure().data
    order = [list(runs).index(name) for name in heat.x]
    assert order == found.order()
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(np.array(heat.z)[off], found.matrix[np.ix_(order, order)][off])
    assert heat.texttemplate
