"""The figures of routing and of comparisons show what was computed, and tell it without colour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from outlier_jupyter import compare
from outlier_jupyter.notebook.figures import Figures
from outlier_jupyter.trace.routing import over_time, routing_measures
from tests.trace.test_atlas import planted
from tests.trace.test_parting import sticky
from tests.trace.test_routing import routed


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
    """No data is said in words."""
    figure = Figures(sticky(1)).measures("prefill")
    assert "no step of this run was prefill" in figure.layout.annotations[0].text


def test_over_time_shows_the_bins() -> None:
    """Both maps are layers by bins, as computed."""
    trace = sticky(1)
    entropy, overlap = Figures(trace).over_time().data
    np.testing.assert_allclose(entropy.z, over_time(trace).entropy.T)
    np.testing.assert_allclose(overlap.z, over_time(trace).overlap.T)


def test_the_atlas_tells_classes_by_signs() -> None:
    """Each class is a trace with its own sign, and all units are drawn once."""
    experts, words = planted()
    figure = Figures(routed(experts, (8,) * 3)).atlas(words)
    assert len(set(signs(figure))) == len(figure.data) == 2
    assert sum(len(part.x) for part in figure.data) == 24
    assert "co-activation" in titles(figure)


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
    np.testing.assert_allclose(heat.z, found.parting().difference)
    assert len(more.x) + len(less.x) == len(found.experts()) > 0
    assert "<i>" not in found.figure().layout.title.text.replace("<br>", "")
    assert "bits" in titles(found.figure())


def test_the_matrix_puts_those_alike_together() -> None:
    """Cells are the matrix in the order of the clusters, with their numbers written in."""
    runs = {"a": sticky(1), "far": sticky(3, liking=5), "b": sticky(2)}
    found = compare(runs, permutations=49)
    (heat,) = found.matrix_figure().data
    order = [list(runs).index(name) for name in heat.x]
    assert order == found.order()
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(np.array(heat.z)[off], found.matrix[np.ix_(order, order)][off])
    assert heat.texttemplate
