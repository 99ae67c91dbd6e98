"""What opens and closes a token's values, and the sum at a layer's end, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from outlier_jupyter.cpu.kernels import blend_link, sigmoid_link, swiglu_link

from .conftest import close, run


def sigmoid(x):
    """In float64."""
    return 1 / (1 + np.exp(-x.astype(np.float64)))


@pytest.mark.parametrize("width", [1, 7, 512, 1333])
@pytest.mark.parametrize(("link", "swish"), [(swiglu_link, True), (sigmoid_link, False)])
def test_values_are_gated(link, swish, width, random):
    """A value is scaled by its gate's sigmoid, and by the gate itself; in place as well."""
    gate, value = (random.normal(size=width).astype(np.float32) * 4 for _ in range(2))
    gate[1:2] = -200.0
    wanted = value * sigmoid(gate) * (gate if swish else 1.0)
    out = np.empty_like(gate)
    run(link(gate, value, out))
    close(out, wanted)
    run(link(gate, value, value))
    close(value, wanted)


@pytest.mark.parametrize("width", [33, 1030])
def test_rows_are_added_by_their_weights(width, random):
    """The rows' weighted sum is added to the existing values, and one more row, gated or not."""
    x, weights, rows, more = (
        random.normal(size=shape).astype(np.float32) for shape in (width, 4, (4, width), width)
    )
    wanted = x + weights.astype(np.float64) @ rows
    run(blend_link(x, weights, rows))
    close(x, wanted)
    run(blend_link(x, weights, rows, more))
    wanted += weights.astype(np.float64) @ rows + more
    close(x, wanted)
    logit, none = np.array([-0.3], np.float32), np.empty(0, np.float32)
    run(blend_link(x, none, none, more, logit))
    close(x, wanted + sigmoid(logit) * more)
