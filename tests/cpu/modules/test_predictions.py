"""With compiled kernels a token is found as likely as with MLX's."""

from __future__ import annotations

import numpy as np

import outlier_jupyter


def test_compiled_kernels_find_the_same_likely():
    """Log-probabilities and entropies agree to float32's precision, alternatives by their ids."""
    traces = []
    for kernels in ("auto", "mlx"):
        with outlier_jupyter.load("demo", cache_experts=60, kernels=kernels, quiet=True) as engine:
            options = {"max_tokens": 30, "temperature": 0.7, "seed": 2, "score_prompt": True}
            traces.append(engine.generate("What is an expert?", **options).trace)
    ours, mlx = traces
    assert (ours.info.kernels, mlx.info.kernels) == ("cpu", "mlx")
    np.testing.assert_array_equal(ours.tokens, mlx.tokens)
    for name in ("logprobs", "entropies", "alternative_logprobs"):
        np.testing.assert_allclose(getattr(ours, name), getattr(mlx, name), rtol=2e-3, atol=2e-3)
    assert (ours.alternatives == mlx.alternatives).mean() > 0.98
    assert (ours.ranks == mlx.ranks).mean() > 0.9
