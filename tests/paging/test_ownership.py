"""A switch computes the experts that it owns, and adds the partial results of other owners."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.engine import load as loading
from outlier_jupyter.events import PagedIn
from outlier_jupyter.paging.ownership import OWNS_ALL
from tests.inspection import pager_of

EXPERTS, TOP_K, WIDTH = 8, 2, 64


class Half:
    """Every second expert, from `first` on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def owned(self, layer, experts):
        return [expert for expert in experts if expert % 2 == self.first]


def inputs(tokens: int) -> tuple[mx.array, mx.array]:
    """Activations [1, tokens, width], and two different experts for each token."""
    draw = np.random.default_rng(tokens)
    x = draw.normal(size=(1, tokens, WIDTH)).astype(np.float32)
    ids = [draw.choice(EXPERTS, TOP_K, replace=False) for _ in range(tokens)]
    return mx.array(x), mx.array(np.array(ids, np.uint32)[None])


@pytest.fixture(params=["mlx", "auto"])
def kernels(request, monkeypatch):
    """MLX's kernels, and the compiled ones."""
    monkeypatch.setattr(loading, "native_wanted", lambda kernels: kernels == "auto")
    return request.param


@pytest.mark.parametrize("overlap", ["on", "off"])
@pytest.mark.parametrize("slots", [1, 3, 24])
def test_the_shares_of_two_add_up_to_the_whole(kernels, slots, overlap, tiny):
    """Each reads only its own experts, outputs zeros for the others, and the sum is exact."""
    options = {"kernels": kernels, "cache_experts": slots, "overlap": overlap}
    with outlier_jupyter.load(tiny, **options) as engine:
        switch = engine.model.layers[1].mlp.switch_mlp
        pager = pager_of(engine)
        for tokens in (1, 5, 70):
            x, ids = inputs(tokens)
            whole = np.array(switch(x, ids))
            shares, read = [], []
            pager.sink = lambda event, read=read: read.append(event)
            for first in (0, 1):
                read.clear()
                switch.paged.owner = Half(first)
                shares.append(np.array(switch(x, ids)))
                assert {e.expert % 2 for e in read if isinstance(e, PagedIn)} <= {first}
                assert not shares[-1][np.array(ids) % 2 != first].any()
            assert np.array_equal(shares[0] + shares[1], whole)
            switch.paged.owner = OWNS_ALL
            assert np.array_equal(np.array(switch(x, ids)), whole)


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_process_without_experts_adds_zeros(kernels, tokens, tiny):
    """Nothing is read, and the output is what the other owners computed."""
    with outlier_jupyter.load(tiny, kernels=kernels, cache_experts=3) as engine:
        switch = engine.model.layers[1].mlp.switch_mlp
        x, _ = inputs(tokens)
        ids = mx.array(np.tile(np.array([1, 3], np.uint32), (1, tokens, 1)))
        switch.paged.owner = Half(0)
        output = np.array(switch(x, ids))
        assert output.shape == (1, tokens, TOP_K, WIDTH) and not output.any()
