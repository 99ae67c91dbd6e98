"""Where text reaches a page: each place is made with one text in all that a stranger may write.

A page is a whole document, or a widget with the traits of its Python half. None is opened here.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import nbformat
import numpy as np
from nbconvert import HTMLExporter

import outlier_jupyter
from outlier_jupyter.engine.status import Status
from outlier_jupyter.notebook.chat import saved_chat
from outlier_jupyter.notebook.chat.conversations import Conversations
from outlier_jupyter.notebook.chat.tool_calls import DONE, FAILED, PROPOSED, ToolCall
from outlier_jupyter.notebook.chat.view_state import chat_state
from outlier_jupyter.notebook.render.static import run_bundle
from outlier_jupyter.notebook.render.static.report import report
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.runs.run import Run
from outlier_jupyter.studies.ablate import Ablation
from outlier_jupyter.studies.sweep_result import Sweep, SweepRow
from outlier_jupyter.trace.answers import measures_answer, what_if_answer
from outlier_jupyter.trace.segments import KINDS
from tests.browser import scenes
from tests.notebook.conftest import build

NAMES = ("model", "reader_note", "machine", "model_hash", "changed_output")
"""Texts of a trace, which a file may bring."""
DOCUMENT = '<!doctype html><html lang="en"><meta charset="utf-8"><title>x</title><main>{}</main>'
PLOTLY = "/plotly.min.js"


@dataclass(frozen=True)
class Shown:
    """What is shown.

    Attributes:
        html: a whole document; or "" for a widget.
        widget: the built script's name; `traits`, what its Python half sends.
    """

    html: str = ""
    widget: str = ""
    traits: dict[str, Any] | None = None

    @property
    def document(self) -> str:
        """The page."""
        if self.html:
            return re.sub(r"<meta http-equiv=[^>]*>", "", self.html, count=1)  # without its guard
        traits = json.dumps(
            self.traits, default=lambda b: {"base64": base64.b64encode(b).decode()}
        ).replace("<", "\\u003c")
        style = scenes.STYLE % {"ground": "#ffffff"}
        return scenes.PAGE % {"widget": self.widget, "style": style, "traits": traits}


def run_of(text: str, seed: int = 5) -> Run:
    """A small run whose prompt, answer, tokens and names are the text."""
    trace = build(steps=16, layers=2, experts=8, k=2, slots=6, prompt=5, seed=seed)
    steps, ones = trace.steps, np.ones(trace.steps, np.float32)
    kinds = np.full(steps + 1, KINDS.index("answer"), np.uint8)
    kinds[:5], kinds[6:9] = KINDS.index("user"), KINDS.index("thinking")
    names: dict[str, Any] = dict.fromkeys(NAMES, text)
    options = {text: text, "mask": [text], "stop": [text]}
    trace = replace(
        trace, produced=np.r_[np.full(4, -1), np.arange(12)].astype(np.int32), kinds=kinds,
        logprobs=-ones, ranks=ones.astype(np.int32), entropies=ones,
        alternatives=np.arange(3 * steps, dtype=np.int32).reshape(steps, 3),
        alternative_logprobs=np.tile(np.float32([-1, -2, -3]), (steps, 1)),
        info=replace(trace.info, **names, kernels="cpu", options=options, versions={text: text}),
    )  # fmt: skip
    return Run(
        prompt=text, encoded=text, text=f"{text} {text}", tokens=np.arange(12, dtype=np.int32),
        finish_reason="length", trace=trace,
        text_ends=np.linspace(0, 2 * len(text) + 1, 13).astype(np.int32)[1:],
        spell=lambda token: text.encode("utf-8", "replace"),
    )  # fmt: skip


def conversations_of(text: str) -> Conversations:
    """Conversations with the text as title, messages, thinking, tools and errors."""
    made = Conversations()
    made.new().title = text
    first = made.get(1)
    made.current = first
    first.system = first.title = text
    question = first.add(0, "user", text)
    answer = first.add(question.id, "assistant", text, "error")
    answer.note = text
    answer.thinking = {"text": text, "seconds": 1.0, "tokens": 3}
    answer.tool_calls = [
        ToolCall(f"{text}{state}", text, {text: text, "x": [text]}, state, text)
        for state in (PROPOSED, DONE, FAILED)
    ]
    code = first.add(answer.id, "assistant", f"a\n\n{text}\n\n```{text}\n{text}\n```", "stop")
    first.add(code.id, "assistant", f"$${text}$$\n\n| {text} |\n|---|\n| ${text}$ |", "stop")
    return made


def chat_traits(text: str) -> dict[str, Any]:
    """The chat's traits, in all of which the text is that may have it."""
    info = {"model": text, "changed_output": text, "context": 4096}
    return scenes.chat_traits() | {
        "state": chat_state(conversations_of(text), None, 1), "notice": text, "draft": text,
        "starters": [text], "system": text, "info": info, "template": {text: text},
    }  # fmt: skip


def live_traits(text: str, running: bool = False) -> dict[str, Any]:
    """A live view's traits."""
    return scenes.live_traits(run_of(text), running)


def documents(*parts: str) -> Shown:
    """A page of several fragments, as outputs of a notebook."""
    return Shown(DOCUMENT.format("".join(f"<div>{part}</div>" for part in parts)))


def answers(text: str) -> Shown:
    """The tables of what-if questions, measures, comparisons, explanations and studies."""
    run = run_of(text)
    named = {text: run, "b": run_of("b", 6)}
    return documents(*(each._repr_html_() for each in (
        what_if_answer(run.trace, [6, 12], ["lru"]), measures_answer(run.trace),
        run.explain(-1), run.tokens_of(0, 0), run.experts_of(slice(1, 3)),
        outlier_jupyter.tokens_of(named, 0, 0), outlier_jupyter.compare(named, permutations=5),
        ablation_of(text), sweep_of(text), status_of(text),
    )))  # fmt: skip


def ablation_of(text: str) -> Ablation:
    """An ablation over two prompts."""
    values = (np.array([-0.5, 0.1]),) * 2
    return Ablation(
        run_of(text).trace.info, (ExpertKey(0, 1),), (text, "b"), (text, text), values, values,
        (np.array([True, False]),) * 2, np.zeros((19, 2, 2)), ((ExpertKey(0, 2),),) * 19, text,
        0, 19,
    )  # fmt: skip


def sweep_of(text: str) -> Sweep:
    """A sweep over one option."""
    setting = {"stop": text}
    row = SweepRow(setting, 0, 0, text, text, 3, text, 9.0, 0.1, 0.5, 100, 4, 0.1, 0.5, -1.0, -1.0,
                   0.1, 0.9, text, text, {text: text})  # fmt: skip
    return Sweep(run_of(text).trace.info, (setting, {"stop": "b"}), (text,), {text: text},
                 (row, replace(row, setting={"stop": "b"})), text, text)  # fmt: skip


def status_of(text: str) -> Status:
    """An engine's state."""
    return Status(text, 2, 16, 4, 3, 100, 400, 50, text, text, text, None, text, False, text,
                  0.5, text, text)  # fmt: skip


def figures(text: str) -> Shown:
    """Every Plotly figure that has a text of a run's."""
    run = run_of(text)
    named = {text: run, "b": run_of("b", 6)}
    compared = outlier_jupyter.compare(named, permutations=5)
    steps = [text] * run.trace.steps
    found = (
        run.figures.routing(), run.figures.latency(), run.figures.surprise(),
        run.figures.atlas(steps), run.explain(-1).figure(), run.tokens_of(0, 0).figure(),
        run.experts_of(slice(1, 3)).figure(), compared.figure(), compared.experts_figure(),
        compared.matrix_figure(), ablation_of(text).figure(), sweep_of(text).figure(),
        outlier_jupyter.tokens_of(named, 0, 0).figure(),
    )  # fmt: skip
    parts = [each.to_html(full_html=False, include_plotlyjs=False) for each in found]
    return documents(f'<script src="{PLOTLY}"></script>', *parts)


def notebook_of(*texts: str) -> nbformat.NotebookNode:
    """A saved notebook with the outputs of a run, a chat, a comparison and an explanation."""
    cells = []
    for text in texts:
        run = run_of(text)
        bundles = [
            run_bundle(run), saved_chat.bundle(text, conversations_of(text)),
            {"text/html": run.explain(-1)._repr_html_(), "text/plain": repr(run)},
            {"text/plain": str(run.explain(-1))},
        ]  # fmt: skip
        written = [{"text/markdown": each["text/markdown"]} for each in bundles[:2]
                   if "text/markdown" in each]  # fmt: skip
        bundles += written
        outputs = [nbformat.v4.new_output("display_data", dict(each)) for each in bundles]
        cells.append(nbformat.v4.new_code_cell("run", outputs=outputs))
    return nbformat.v4.new_notebook(cells=cells)


def exported(text: str) -> Shown:
    """A saved notebook as nbconvert writes it."""
    return Shown(HTMLExporter().from_notebook_node(notebook_of(text))[0])  # type: ignore[no-untyped-call]


PLACES: dict[str, Callable[[str], Shown]] = {
    "a run's static view": lambda text: documents(str(run_bundle(run_of(text))["text/html"])),
    "a report": lambda text: Shown(report(run_of(text))),
    "a live view": lambda text: Shown("", "live", live_traits(text)),
    "a live view during a run": lambda text: Shown("", "live", live_traits(text, running=True)),
    "two runs side by side": lambda text: Shown("", "compare", {
        "one": live_traits(text), "other": live_traits(text), "names": [text, text]}),
    "a chat": lambda text: Shown("", "chat", chat_traits(text)),
    "a chat in a saved notebook": lambda text: documents(
        saved_chat.bundle(text, conversations_of(text))["text/html"]),
    "answers and tables": answers,
    "Plotly figures": figures,
    "an exported notebook": exported,
}  # fmt: skip
