"""The table of views: which function draws what of a record, imported on first use.

Records (runs, traces, studies) hold numbers and import no view, so they work without Jupyter or
Plotly. This table is the only link from a record to its views.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

VIEWS = {
    "Run.figures": "notebook.render.figures:Figures",
    "Run.view": "notebook.live.widget:LiveView.of",
    "Run.beside": "notebook.live.side_by_side:beside",
    "Run.show": "notebook.live.show:show_finished",
    "Run.tokens_of": "runs.token_experts:tokens_of",
    "Run.experts_of": "runs.token_experts:experts_of",
    "Run.report": "notebook.render.static.report:report",
    "Run.mimebundle": "notebook.render.static:run_bundle",
    "LiveView.branch": "notebook.live.branching:go_on",
    "Trace.view": "notebook.live.widget:of_trace",
    "Trace.sizing": "notebook.render.figures.cache_sizes:sizes_figure",
    "Trace.measures": "notebook.render.figures.routing:measures_figure",
    "HostsAnswer.html": "notebook.render.static.answer:hosts_html",
    "WhatIfAnswer.html": "notebook.render.static.answer:what_if_html",
    "MeasuresAnswer.html": "notebook.render.static.answer:measures_html",
    "Status.ready": "notebook.render.static.answer:ready_html",
    "Status.html": "notebook.render.static.answer:status_html",
    "SegmentsAnswer.figure": "notebook.render.figures.comparison:segments_figure",
    "SegmentsAnswer.html": "notebook.render.static.answer:segments_html",
    "Atlas.figure": "notebook.render.figures.routing:atlas_figure",
    "Explanation.figure": "notebook.render.figures.token:token_figure",
    "Explanation.html": "notebook.render.static.explanation:html",
    "ExpertUses.figure": "notebook.render.figures.token_experts:uses_figure",
    "ExpertUses.html": "notebook.render.static.token_experts:expert_html",
    "TokenExperts.figure": "notebook.render.figures.token_experts:experts_figure",
    "TokenExperts.html": "notebook.render.static.token_experts:tokens_html",
    "Comparison.figure": "notebook.render.figures.comparison:divergence_figure",
    "Comparison.experts_figure": "notebook.render.figures.comparison:experts_figure",
    "Comparison.matrix_figure": "notebook.render.figures.comparison:matrix_figure",
    "Comparison.html": "notebook.render.static.comparison:html",
    "Ablation.figure": "notebook.render.figures.studies:ablation_figure",
    "Ablation.html": "notebook.render.static.answer:ablation_html",
    "Variants.html": "notebook.render.static.variants:html",
    "Variants.view": "notebook.live.variants_view:VariantsView",
    "Sweep.html": "notebook.render.static.answer:sweep_html",
    "Sweep.figure": "notebook.render.figures.studies:sweep_figure",
}
"""Record and view → module of this package and function, which gets the record first."""

INERT = "mathjax_ignore tex2jax_ignore"
"""Classes of the root element of all our HTML. They keep MathJax 2 and 3 from reading text between
dollar signs as TeX."""

View = TypeVar("View")


def draw(what: str, *args: Any) -> View:  # type: ignore[type-var]  # the caller's annotation decides
    """Draw `what` of a record.

    Args:
        what: a key of `VIEWS`.
        args: the record, and the function's further arguments.
    """
    view: View = view_of(what)(*args)
    return view


def view_of(what: str) -> Any:
    """The function that draws `what`."""
    module, _, path = VIEWS[what].partition(":")
    found: Any = import_module(f".{module}", __package__)
    for name in path.split("."):
        found = getattr(found, name)
    return found
