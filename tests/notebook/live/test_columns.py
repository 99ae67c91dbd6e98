"""Numbers per token that a page requests after the run: router entropy, one expert's weight."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest

from outlier_jupyter import Run
from outlier_jupyter.notebook.live import columns
from outlier_jupyter.notebook.live.widget import LiveView

from .test_widget import on_a_page


@pytest.fixture
def run(make_trace) -> Run:
    """A run whose first token has no weights, and the others 3/4 and 1/4 in every layer."""
    trace = make_trace(steps=12, layers=3, experts=8, k=2)
    trace.weights[1:] = (0.75, 0.25)
    return Run.of(trace)


def received(view: LiveView, about: object) -> list[tuple[dict[str, object], list[bytes]]]:
    """What the view sends when a page asks."""
    sent = []
    view.send = lambda content, buffers=None: sent.append((content, list(buffers or [])))
    on_a_page(view).comm.receive({"type": "ask", "about": about})
    return sent


def test_a_page_gets_the_entropy_of_each_token(run) -> None:
    """One buffer of float32 per step, in bits, the mean of the layers; NaN where unknown."""
    about = {"column": "entropy"}
    view = LiveView.of(run)
    ((content, buffers),) = received(view, about)
    view.close()
    assert content == {"type": "told", "about": about, "words": ""}
    bits = np.frombuffer(buffers[0], "<f4")
    assert len(bits) == run.trace.steps and np.isnan(bits[0])
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    np.testing.assert_allclose(bits[1:], expected, rtol=1e-6)


def test_a_page_gets_the_weight_of_one_expert_over_the_tokens(run) -> None:
    """Its weight where a token chose it, 0 where it did not, NaN where none was recorded."""
    layer, expert = 2, int(run.trace.experts[5, 2, 1])
    view = LiveView.of(run)
    about = {"column": "weight", "layer": layer, "expert": expert}
    ((content, buffers),) = received(view, about)
    view.close()
    assert content["about"] == about and content["words"] == ""
    weights = np.frombuffer(buffers[0], "<f4")
    chosen = run.trace.experts[1:, layer]
    expected = np.where(chosen[:, 0] == expert, 0.75, np.where(chosen[:, 1] == expert, 0.25, 0))
    np.testing.assert_allclose(weights[1:], expected)
    assert np.isnan(weights[0]) and weights[5] == np.float32(0.25)


@pytest.mark.parametrize(
    "about",
    [
        {"column": "entropy"},
        {"column": "weight", "layer": 0, "expert": 3},
        {"column": "weight", "layer": 99, "expert": 3},
        {"column": "weight", "layer": "0", "expert": None},
        {"column": ["surprise"]},
    ],
)
def test_without_numbers_the_answer_is_the_reason(make_trace, about) -> None:
    """Weights that were not recorded, and questions nobody knows: no bytes, one sentence."""
    values, reason = columns.answer(Run.of(make_trace(steps=9)), about)
    assert values == b"" and reason.endswith(".") and len(reason) < 100
    assert columns.answer(None, about) == (b"", columns.NOT_OVER)


def test_a_page_without_a_kernel_has_the_entropy_in_its_info(run, make_trace) -> None:
    """The same numbers as the answer, as base64; absent if they were not recorded."""
    (text,) = columns.embedded_columns(run).values()
    assert base64.b64decode(text) == columns.answer(run, {"column": "entropy"})[0]
    assert columns.embedded_columns(Run.of(make_trace(steps=9))) == {}
