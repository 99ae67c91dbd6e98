"""Products of heads with matrices of their own, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from outlier_jupyter.cpu.kernels import RUNNING, Chain, HeadMatrices, affine, plain

from .conftest import close, packed


@pytest.mark.parametrize(
    "form", [affine(4, 64, "bf16"), affine(8, 32, "f32"), plain("bf16")], ids=str
)
@pytest.mark.parametrize(("heads", "height", "width"), [(3, 40, 128), (16, 512, 64)])
def test_each_head_is_multiplied_by_its_own_matrix(form, heads, height, width, random):
    """As one product per head."""
    arrays, values = packed(form, heads, height, width)
    x = random.normal(size=(heads, width)).astype(np.float32)
    out = np.empty(heads * height, np.float32)
    matrices = HeadMatrices(form, heads, height, width, *arrays)
    with RUNNING:
        Chain(matrices.links(x.ravel(), out), matrices.nbytes).run()
    wanted = np.einsum("hoi,hi->ho", values, x.astype(np.float64))
    close(out.reshape(heads, height), wanted, form)
