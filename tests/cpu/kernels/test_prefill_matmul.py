"""Products for many rows of activations, against float64 over MLX's dequantised values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.cpu.kernels import Stack, affine, experts_many, multiply_many, mxfp4, plain
from outlier_jupyter.cpu.kernels.tile_codes import SPAN
from outlier_jupyter.cpu.kernels.weight_tiles import CHUNK

from .conftest import close_many, matrix
from .test_experts import experts_of, reference, routed

FORMATS = [
    affine(2, 64, "f16"), affine(3, 32, "bf16"), affine(4, 64, "bf16"), affine(4, 128, "f32"),
    affine(5, 64, "f16"), affine(6, 128, "bf16"), affine(8, 32, "f32"), mxfp4(), plain("bf16"),
]  # fmt: skip
"""Each number of bits, each group and each type of scales."""


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@given(data=st.data())
@settings(max_examples=6, deadline=None, derandomize=True)
def test_products_are_those_of_float64(form, data):
    """Every format, at any width, height and number of rows, is within what 16 bits allow."""
    unit = form.group or data.draw(st.sampled_from([1, 12, 32]), "unit")
    width = unit * data.draw(st.integers(1, 9), "units")
    height = data.draw(st.integers(1, 150), "height")
    rows = data.draw(st.sampled_from([1, 5, 6, 7, CHUNK, CHUNK + 1]), "rows")
    stored, values = matrix(form, height, width, seed=width)
    x = np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)
    wanted = x.astype(np.float64) @ values.T
    close_many(multiply_many(x, Stack([stored])), wanted, form)


@pytest.mark.parametrize("form", [affine(8, 32, "f32"), mxfp4()], ids=lambda form: form.name)
def test_rows_longer_than_a_span_are_summed_in_order(form, random):
    """Codes are transposed span by span; the groups of all spans count, with their own scales."""
    width = 2 * SPAN * form.per_lane + 3 * form.group
    stored, values = matrix(form, 70, width)
    x = random.normal(size=(7, width)).astype(np.float32)
    close_many(multiply_many(x, Stack([stored])), x.astype(np.float64) @ values.T, form)


@given(sizes=st.lists(st.integers(-25, 25), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_groups_of_all_sizes_are_within_the_bound(sizes):
    """Each group has its own unit, so small groups beside large ones lose no precision."""
    made, values = matrix(affine(4, 64, "bf16"), 9, 64 * len(sizes), seed=len(sizes))
    scale = np.repeat(10.0 ** np.array(sizes), 64)
    x = (np.random.default_rng(3).normal(size=(7, made.width)) * scale).astype(np.float32)
    close_many(multiply_many(x, Stack([made])), x.astype(np.float64) @ values.T, made.form)


def test_groups_of_zeros_add_nothing():
    """A group of zeros has no unit to divide by."""
    made, values = matrix(affine(4, 64, "bf16"), 9, 3 * 64)
    x = np.zeros((7, made.width), np.float32)
    assert not multiply_many(x, Stack([made])).any()
    x[:, 64:128] = 1
    close_many(multiply_many(x, Stack([made])), x.astype(np.float64) @ values.T, made.form)


@pytest.mark.parametrize("form", [affine(4, 64, "bf16"), affine(3, 32, "bf16"), mxfp4()])
def test_a_row_has_the_bits_of_itself_alone(form, random):
    """The other rows of a call, and how many there are, change nothing in a row."""
    made, _ = matrix(form, 70, 5 * form.group)
    x = random.normal(size=(CHUNK + 9, made.width)).astype(np.float32)
    stack = Stack([made])
    singly = np.concatenate([multiply_many(row[None], stack) for row in x])
    assert np.array_equal(multiply_many(x, stack), singly)


@given(data=st.data())
@settings(max_examples=8, deadline=None, derandomize=True)
def test_experts_take_all_of_their_rows(data):
    """Experts with few rows and with many, of mixed formats, give each pair its own result."""
    forms = [(affine(4, 64, "bf16"), affine(6, 64, "bf16")), (mxfp4(), mxfp4()),
             (affine(4, 64, "bf16"), plain("bf16"))]  # fmt: skip
    first, second = data.draw(st.sampled_from(forms), "formats")
    width, hidden = (64 * data.draw(st.integers(1, 5), name) for name in ("width", "hidden"))
    rows, k = data.draw(st.integers(2, 150), "rows"), data.draw(st.integers(1, 6), "k")
    biased = data.draw(st.booleans(), "biased")
    experts, values = experts_of(first, second, "swiglu", width, hidden, biased)
    x = np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)
    slots = routed(rows, k, seed=k)
    close_many(experts_many(x, slots, experts), reference(x, slots, values, "swiglu"), first)


def test_a_pairs_result_does_not_depend_on_the_other_experts(random):
    """An expert's rows have the same bits, whichever experts are computed in the same call."""
    experts, _ = experts_of(affine(4, 64, "bf16"), affine(4, 64, "bf16"), "swiglu")
    x, slots = random.normal(size=(40, 128)).astype(np.float32), routed(40, 3)
    whole = experts_many(x, slots, experts)
    for slot in np.unique(slots):
        rows, places = np.nonzero(slots == slot)
        alone = experts_many(x[rows], np.full((len(rows), 1), slot), experts)
        assert np.array_equal(alone[:, 0], whole[rows, places])
