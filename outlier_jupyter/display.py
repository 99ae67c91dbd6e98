"""The one way from a record to a picture of it: which function draws what, imported when asked for.

Records (runs, traces, studies) know numbers and no views, so that they can be used without Jupyter
or Plotly; views know records. What a record offers to draw stands in this table, and nowhere else
does a record name a view.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

VIEWS = {
    "Run.figures": "notebook.figures:Figures",
    "Run.view": "notebook.live:LiveView.of",
    "Run.report": "notebook.static_view.report:report",
    "Run.mimebundle": "notebook.static_view:run_bundle",
    "Trace.view": "notebook.live:of_trace",
    "Trace.sizing": "notebook.sizing:Sizing",
    "Atlas.figure": "notebook.figures.of_routing:atlas_figure",
    "Explanation.figure": "notebook.figures.of_token:token_figure",
    "Explanation.html": "notebook.static_view.explained:html",
    "ExpertUses.figure": "notebook.figures.of_uses:uses_figure",
    "ExpertUses.html": "notebook.static_view.uses:expert_html",
    "TokenExperts.figure": "notebook.figures.of_uses:experts_figure",
    "TokenExperts.html": "notebook.static_view.uses:tokens_html",
    "Comparison.figure": "notebook.figures.of_comparison:divergence_figure",
    "Comparison.experts_figure": "notebook.figures.of_comparison:experts_figure",
    "Comparison.matrix_figure": "notebook.figures.of_comparison:matrix_figure",
    "Comparison.html": "notebook.static_view.compared:html",
    "Ablation.figure": "notebook.figures.of_studies:ablation_figure",
    "Sweep.figure": "notebook.figures.of_studies:sweep_figure",
}
"""Record and what it offers → module of this package and function, which gets the record first."""

INERT = "mathjax_ignore tex2jax_ignore"
"""Classes of the root of all HTML of ours: within them no MathJax, of version 3 or 2, takes what
stands between dollars for TeX."""

View = TypeVar("View")


def draw(what: str, *given: Any) -> View:  # type: ignore[type-var]  # who calls says what it is
    """Draw `what` of a record.

    Args:
        what: a key of `VIEWS`.
        given: for its function: the record, and what else it takes.
    """
    view: View = view_of(what)(*given)
    return view


def view_of(what: str) -> Any:
    """The function that draws `what`."""
    module, _, path = VIEWS[what].partition(":")
    found: Any = import_module(f".{module}", __package__)
    for name in path.split("."):
        found = getattr(found, name)
    return found
