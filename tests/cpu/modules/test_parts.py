"""A layer's parts: rows in another order, and parts that MLX computes alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mlx_lm import load as load_unpaged

import outlier_jupyter
from outlier_jupyter.cpu.kernels import RUNNING, Chain, affine
from outlier_jupyter.cpu.modules.decoder_layer import plans
from outlier_jupyter.cpu.modules.parts import Foreign, Projection
from outlier_jupyter.families import FAMILIES
from tests.cpu.kernels.conftest import close, matrix
from tests.cpu.modules.clear import Reference
from tests.models import checkpoint


@pytest.mark.parametrize("rows", [1, 5, 70])
def test_rows_are_computed_in_the_order_that_is_wanted(rows):
    """Of matrices of two formats, for one row in a chain and for many at once."""
    random = np.random.default_rng(0)
    forms = [affine(4, 64, "bf16"), affine(4, 64, "bf16"), affine(8, 64, "f32")]
    made = [matrix(form, height, 128) for form, height in zip(forms, (48, 7, 24), strict=True)]
    order = np.concatenate([np.arange(10, 30), [50, 3], np.arange(60, 79), np.arange(3)])
    order = np.concatenate([order, np.setdiff1d(np.arange(79), order)])
    project = Projection([each for each, _ in made], order)
    x = random.normal(size=(rows, 128)).astype(np.float32)
    wanted = (x.astype(np.float64) @ np.concatenate([values for _, values in made]).T)[:, order]
    close(project(x), wanted, *forms)
    out = np.empty(79, np.float32)
    with RUNNING:
        Chain(project.links(x[0], out), project.nbytes).run()
    close(out, wanted[0], *forms)


@pytest.mark.parametrize("unknown", ["attention", "delta", "block"])
def test_a_part_that_is_not_known_is_mlxs_alone(unknown, tmp_path, monkeypatch):
    """The layers stay native around it, with mlx-lm's logits."""
    folder = checkpoint("qwen3_next", tmp_path / "model")
    reference = Reference(load_unpaged(str(folder))[0])
    without = replace(FAMILIES["qwen3_next"], **{unknown: "SomethingElse"})
    monkeypatch.setitem(FAMILIES, "qwen3_next", without)
    for slots in (4, 32):
        with outlier_jupyter.load(folder, cache_experts=slots, kernels="auto") as engine:
            found = plans(engine.model.model.layers)
            assert found is not None
            foreign = [isinstance(plan.mixer, Foreign) for plan in found]
            wanted = {"attention": [False, True, False], "delta": [True, False, True],
                      "block": [False] * 3}  # fmt: skip
            assert foreign == wanted[unknown]
            assert [plan.k > 0 for plan in found] == [unknown != "block"] * 3
            for length in (1, 9):
                assert reference.agrees_with(engine.model, length)
