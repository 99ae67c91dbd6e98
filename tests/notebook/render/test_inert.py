"""No page renders names, prompts or texts as TeX or as markup of a figure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

import outlier_jupyter
from outlier_jupyter import Engine, Run
from outlier_jupyter.notebook.chat.chat import Chat
from tests.torture.places import sweep_of

TEXT = "It costs $5_1$ or $$y^2$$ more, \\(z_3\\), <i>they</i> say"
TEX = re.compile(r"[$]+[^$]*[$]+")
"""Plotly renders this as TeX, where a page has MathJax."""
IGNORED = ("mathjax_ignore", "tex2jax_ignore")
"""The classes that MathJax 3 and MathJax 2 skip."""


@pytest.fixture(scope="module")
def runs(engine: Engine) -> dict[str, Run]:
    return {
        f"${letter}_1$ <b>": engine.generate(f"{letter} {TEXT}", max_tokens=12, raw=True)
        for letter in "ab"
    }


def htmls(engine: Engine, runs: dict[str, Run]) -> Iterator[tuple[str, str]]:
    """Every kind of HTML in a notebook."""
    run = next(iter(runs.values()))
    yield "run", run._repr_mimebundle_()["text/html"]
    yield "explained", run.explain(1)._repr_html_()
    layer, expert = 0, int(run.trace.experts[0, 0, 0])
    yield "uses", outlier_jupyter.tokens_of(runs, layer, expert)._repr_html_()
    yield "tokens", run.experts_of(slice(0, 4))._repr_html_()
    yield "compared", outlier_jupyter.compare(runs)._repr_html_()
    yield "plan", outlier_jupyter.plan(engine.info.model)._repr_html_()
    chat = Chat(engine, max_tokens=2)
    chat.send(TEXT)
    chat.save_view()
    chat.close()
    yield "chat", chat.saved_view["text/html"]


def figures(engine: Engine, runs: dict[str, Run]) -> Iterator[go.Figure]:
    """Every figure that shows texts from outside."""
    run = next(iter(runs.values()))
    found = outlier_jupyter.compare(runs)
    yield from (found.figure(), found.experts_figure(), found.matrix_figure())
    layer, expert = 0, int(run.trace.experts[0, 0, 0])
    yield outlier_jupyter.tokens_of(runs, layer, expert).figure()
    yield run.experts_of(slice(0, 4)).figure()
    yield run.explain(2).figure()
    yield run.figures.routing()
    labels = ["$x_1$ <b>" if step % 2 else "$y$" for step in range(run.trace.steps)]
    yield run.figures.atlas(labels)
    texts = dict.fromkeys(runs, "The experts are many, and few of them are used at a time.")
    yield outlier_jupyter.ablate(engine, texts, "0:1", draws=3, max_tokens=4, quiet=True).figure()
    sweep = outlier_jupyter.sweep(engine, prompts=[TEXT], top_k=[1, 2], max_tokens=2, quiet=True)
    yield sweep.figure()


def test_no_html_of_ours_is_typeset(engine: Engine, runs: dict[str, Run]) -> None:
    """It has one root, whose classes exclude it from MathJax."""
    for what, html in htmls(engine, runs):
        (root,) = re.findall(r'^<div class="([^"]*)">', html)
        assert set(IGNORED) <= set(root.split()), what
        assert html.rstrip().endswith(("</div>", "-->")), what


def texts_of(part: Any) -> Iterator[str]:
    """All strings of a figure."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for key, each in part.items():
            if key != "template":
                yield from texts_of(each)
    elif isinstance(part, list | tuple):
        for each in part:
            yield from texts_of(each)


def test_no_text_of_a_figure_is_typeset_or_markup(engine: Engine, runs: dict[str, Run]) -> None:
    """Figures contain no dollars in pairs and no tags but their own."""
    for figure in figures(engine, runs):
        message = list(texts_of(figure.to_plotly_json()))
        assert not [text for text in message if TEX.search(text)]
        assert not [text for text in message if "<i>" in text or "$ <b>" in text]


def test_the_settings_of_a_sweep_are_no_markup() -> None:
    """A setting may be a text, such as a stop word, and the axis has its letters."""
    for text in texts_of(sweep_of("<i>$x$</i>").figure().to_plotly_json()):
        assert "<i>" not in text and not TEX.search(text)


def test_a_plan_names_its_folder_as_it_is(tiny: Path, tmp_path: Path) -> None:
    """A folder's name between dollars stays unchanged."""
    folder = tmp_path / "$a_1$"
    folder.symlink_to(tiny)
    html = outlier_jupyter.plan(str(folder))._repr_html_()
    assert "$a_1$" in html and html.startswith('<div class="mathjax_ignore')
