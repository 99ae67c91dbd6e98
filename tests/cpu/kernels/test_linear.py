"""Products with packed rows, against float64 over MLX's dequantised values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.cpu.kernels import (
    Matrix,
    Stack,
    affine,
    multiply_many,
    mxfp4,
    plain,
)
from outlier_jupyter.cpu.kernels.formats import parse
from outlier_jupyter.cpu.kernels.rows import FOUR

from .conftest import close, close_many, matrix

SCALES = ("f32", "f16", "bf16")
FORMATS = [
    affine(bits, group, SCALES[(bits + group // 32) % 3])
    for bits in (2, 3, 4, 5, 6, 8)
    for group in (32, 64, 128)
] + [mxfp4(), *map(plain, SCALES), *(affine(4, 64, scale) for scale in SCALES)]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@given(data=st.data())
@settings(max_examples=6, deadline=None, derandomize=True)
def test_products_are_those_of_float64(form, data):
    """Every format, at any width and number of rows, is as near float64 as its kernel states."""
    unit = form.group or data.draw(st.sampled_from([1, 12, 32]), "unit")
    width = unit * data.draw(st.integers(1, 9), "units")
    height = data.draw(st.integers(1, 40), "height")
    rows = data.draw(st.sampled_from([1, 2, 4, 5]), "rows")
    stored, values = matrix(form, height, width, seed=width)
    x = np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)
    wanted = x.astype(np.float64) @ values.T
    close(Stack([stored]).multiply(x), wanted, *([form] if rows < FOUR else []))


def test_every_float16_is_widened_exactly():
    """With the processor's instruction or by bits: zeros, the smallest numbers and the largest."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)][:, None]
    one = np.ones((1, 1), np.float32)
    found = Stack([Matrix(plain("f16"), len(halves), 1, halves)]).multiply(one)
    assert np.array_equal(found, halves.T.astype(np.float32))


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("form", [affine(4, 64, "bf16"), affine(3, 32, "f16"), mxfp4()])
def test_vectors_of_other_widths_give_the_same(form, lanes, random):
    """Code for AVX-512 and for AVX2 is right wherever it is compiled."""
    stored, values = matrix(form, 9, 480 if form.group == 32 else 448)
    x = random.normal(size=(5, stored.width)).astype(np.float32)
    for rows in (x, x[:1]):
        wanted = rows.astype(np.float64) @ values.T
        close(Stack([stored], lanes).multiply(rows), wanted, *([form] if len(rows) < FOUR else []))


def test_stacked_matrices_stand_side_by_side_with_their_biases(random):
    """Matrices of different heights share one call, each row in its place with its own bias."""
    made = [matrix(affine(4, 32, "bf16"), height, 96, seed=height) for height in (5, 70, 1)]
    bias = random.normal(size=70).astype(np.float32)
    matrices = [m for m, _ in made]
    matrices[1] = type(matrices[1])(**(vars(matrices[1]) | {"bias": bias}))
    x = random.normal(size=(3, 96)).astype(np.float32)
    wanted = x.astype(np.float64) @ np.concatenate([values for _, values in made]).T
    wanted[:, 5:75] += bias
    close(Stack(matrices).multiply(x), wanted, matrices[0].form)
    close_many(multiply_many(x, Stack(matrices)), wanted, matrices[0].form)


def test_matrices_that_do_not_fit_are_refused():
    """A wrong number of bytes, and stacks of several widths, are refused before they are read."""
    good, _ = matrix(affine(4, 32, "f32"), 4, 64)
    other, _ = matrix(affine(4, 32, "f32"), 4, 96)
    with pytest.raises(ValueError, match="several formats or widths"):
        Stack([good, other])
    with pytest.raises(ValueError, match=r"rows of .* do not fit"):
        type(good)(**(vars(good) | {"height": 5}))


def test_formats_have_names_that_are_read_back():
    """A format's name has all of its parts."""
    assert [parse(form.name) for form in FORMATS] == FORMATS
    assert affine(7, 64, "f32") is None
