"""Packed weights made by MLX itself, with their values in float64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from outlier_jupyter.cpu.kernels import RUNNING, Bank, Chain, Format, Link, Matrix
from outlier_jupyter.cpu.kernels.integer_activations import fits, largest
from outlier_jupyter.cpu.kernels.weight_tiles import LARGEST

DTYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}
TOLERANCE = 1e-5
"""Allowed difference from float64, as a share of the largest result."""
UNITS = 3.5
"""The same where activations may be rounded to integers, in units: in a product of few rows."""


def on_host(array: mx.array | None) -> np.ndarray | None:
    """The same bytes as a NumPy array, since NumPy has no bfloat16."""
    if array is None:
        return None
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def packed(form: Format, *shape: int, seed: int = 0) -> tuple[list, np.ndarray]:
    """Random weights [..., height, width] in `form`: [weight, scales, biases], and their values."""
    mx.random.seed(seed)
    w = mx.random.normal(shape).astype(DTYPES.get(form.scale, mx.float32)) * 0.1
    if form.kind == "plain":
        return [on_host(w), None, None], np.array(w.astype(mx.float32)).astype(np.float64)
    mode = "affine" if form.kind == "affine" else "mxfp4"
    parts = mx.quantize(w, form.group, form.bits, mode=mode)
    wide = [p.astype(mx.float32) if mode == "affine" else p for p in parts[1:]]
    values = mx.dequantize(parts[0], *wide, group_size=form.group, bits=form.bits, mode=mode)
    arrays = [on_host(part) for part in parts] + [None] * (3 - len(parts))
    return arrays, np.array(values.astype(mx.float32)).astype(np.float64)


def matrix(form: Format, height: int, width: int, seed: int = 0) -> tuple[Matrix, np.ndarray]:
    """A random matrix and its values."""
    arrays, values = packed(form, height, width, seed=seed)
    return Matrix(form, height, width, *arrays), values


def bank(form: Format, slots: int, height: int, width: int, seed: int = 0) -> tuple:
    """A random bank of experts and its values [slots, height, width]."""
    arrays, values = packed(form, slots, height, width, seed=seed)
    return Bank(form, height, width, *arrays), values


def close(found: np.ndarray, wanted: np.ndarray, *forms: Format) -> None:
    """Within the tolerance of the largest, that of products with weights in `forms`."""
    assert found.shape == wanted.shape
    tolerance = max([TOLERANCE, *(UNITS / largest(form) for form in forms if fits(form))])
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def run(link: Link) -> None:
    """Run one kernel by itself."""
    with RUNNING:
        Chain([link], 0).run()


def close_many(found: np.ndarray, wanted: np.ndarray, *forms: Format) -> None:
    """Within the tolerance of products of many rows, whose activations are rounded to 16 bits."""
    assert found.shape == wanted.shape
    tolerance = UNITS / LARGEST if any(form.group for form in forms) else TOLERANCE
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.fixture
def random() -> np.random.Generator:
    """Random numbers that repeat."""
    return np.random.default_rng(0)
