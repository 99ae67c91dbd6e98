"""Errors below the decode loop that a retry hides from the user."""

from __future__ import annotations

import numpy as np
from mlx_lm.sample_utils import make_sampler

import outlier_jupyter
from outlier_jupyter.engine import sampling


def test_a_sampler_that_lost_its_library_is_called_again_with_the_same_result(tiny, monkeypatch):
    """MLX compiles into a folder that all processes share, where one can delete another's file."""

    def make(*args, **kwargs):
        sampler, losses = make_sampler(*args, **kwargs), iter([True])

        def losing(logits):
            token = sampler(logits)
            if next(losses, False):
                raise RuntimeError("Could not load C++ shared library /tmp/mlx/tmp_0.so: no file")
            return token

        return losing

    options = {"temperature": 1.0, "seed": 3, "max_tokens": 8}
    with outlier_jupyter.load(tiny, cache_experts=5) as engine:
        expected = engine.generate("What is an expert?", **options)
        monkeypatch.setattr(sampling, "make_sampler", make)
        again = engine.generate("What is an expert?", **options)
    np.testing.assert_array_equal(again.tokens, expected.tokens)
