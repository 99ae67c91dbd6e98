"""Resampling of recorded routing: distinct experts, and the trace's reuse intervals."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.benchmark.routing import Source, read_source, resample
from outlier_jupyter.errors import TraceError


def made(tokens: int, layers: int, experts: int, k: int) -> Source:
    """A trace in which token t of layer l chooses k experts from 2t + l on, modulo their number."""
    first = 2 * np.arange(tokens)[:, None, None] + np.arange(layers)[None, :, None]
    return Source(((first + np.arange(k)) % experts).astype(np.int16), experts, "made")


def kept(picks) -> float:
    """The share of choices that the token before had made as well."""
    pairs = [pair for x, y in pairwise(picks) for pair in zip(x, y, strict=True)]
    same = [np.isin(after, before).mean() for before, after in pairs]
    return float(np.mean(same))


@given(
    layers=st.integers(1, 5),
    experts=st.integers(4, 40),
    k=st.integers(1, 4),
    texts=st.integers(1, 3),
)
def test_every_choice_is_of_k_different_experts(layers, experts, k, texts):
    """Whatever the geometry, a row has k different experts, all of them valid."""
    routes = resample(made(9, 3, 8, 3), layers, experts, k, texts)
    assert routes.picks.shape == (9 * texts, layers, k) and routes.texts == texts
    assert routes.picks.min() >= 0 and routes.picks.max() < experts
    assert all(len(set(row)) == k for row in routes.picks.reshape(-1, k).tolist())


def test_the_same_geometry_keeps_the_times_of_the_trace():
    """Without resampling the trace is only renamed, so an expert stays chosen as long."""
    source = made(20, 4, 16, 4)
    routes = resample(source, 4, 16, 4, 2)
    assert kept(source.picks) == kept(routes.picks[:20]) == kept(routes.picks[20:]) == 0.5
    assert "renamed" in routes.description and not np.array_equal(
        routes.picks[:20], routes.picks[20:]
    )


def test_more_experts_are_made_of_several_layers():
    """A layer with four times the experts has choices in each quarter, and reuse is the same."""
    routes = resample(made(20, 4, 16, 4), 4, 64, 8, 1)
    assert [(np.sort(routes.picks[0, 0]) // 16).tolist().count(i) for i in range(4)] == [2, 2, 2, 2]
    assert "from 4 layers of 16, top-4, to 4 of 64, top-8" in routes.description


def test_after_a_text_comes_its_beginning():
    """A text wraps around to its own beginning: other texts have other names of experts."""
    routes = resample(made(9, 2, 8, 2), 2, 8, 2, 2)
    assert [routes.after(token) for token in (0, 8, 9, 17)] == [1, 0, 10, 9]


def test_what_is_no_trace_is_refused(tmp_path):
    """The message names the file."""
    (tmp_path / "text.safetensors").write_text("nothing")
    with pytest.raises(TraceError, match=r"text\.safetensors is not a complete safetensors file"):
        read_source(tmp_path / "text.safetensors")
