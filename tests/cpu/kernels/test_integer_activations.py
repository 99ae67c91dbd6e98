"""Few rows of activations, multiplied as integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.cpu.kernels import Matrix, Stack, affine, mxfp4, plain
from outlier_jupyter.cpu.kernels.integer_activations import fits, largest
from outlier_jupyter.cpu.kernels.processor import HAS_AVX2, HAS_SDOT, HAS_VBMI, HAS_VNNI
from outlier_jupyter.cpu.kernels.rows import FOUR

from .conftest import close, matrix

FORM = affine(4, 64, "bf16")
GROUP = FORM.group
FORMS = [
    *(affine(bits, group, "bf16") for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)),
    mxfp4(),
]  # fmt: skip
BFLOAT16 = 2.0**-9
"""The largest rounding of bfloat16, as a share of the number."""


def rounded(x, form):
    """The activations that the kernels multiply with, as float64."""
    if not fits(form):
        return x.astype(np.float64)
    groups = x.reshape(len(x), -1, form.group)
    size, most = np.abs(groups).max(axis=2, keepdims=True), np.float32(largest(form))
    whole = np.rint(groups * (most / size))
    return (whole.astype(np.float64) * (size / most)).reshape(x.shape)


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@given(data=st.data())
@settings(max_examples=8, deadline=None, derandomize=True)
def test_products_are_exact_but_for_the_rounding_of_activations(form, lanes, data):
    """At any width, weights × the rounded activations are those of float64 to float32's bits."""
    groups = data.draw(st.integers(1, 40), "groups")
    rows = data.draw(st.integers(1, FOUR - 1), "rows")
    made, values = matrix(form, 5, form.group * groups, seed=groups)
    x = np.random.default_rng(rows).normal(size=(rows, made.width)).astype(np.float32)
    found, used = Stack([made], lanes).multiply(x), rounded(x, form)
    assert np.abs(used - x).max() <= np.abs(x).max() * BFLOAT16 / 30
    size = np.linalg.norm(values, axis=1) * np.linalg.norm(x, axis=1)[:, None]
    assert (np.abs(found - used @ values.T) <= 2e-6 * size).all()


@given(sizes=st.lists(st.integers(-25, 25), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_groups_of_all_sizes_are_within_the_kernels_bound(sizes):
    """Each group has its own scale, so small groups beside large ones lose no precision."""
    made, values = matrix(FORM, 9, GROUP * len(sizes), seed=len(sizes))
    scale = np.repeat(10.0 ** np.array(sizes), GROUP)
    x = (np.random.default_rng(3).normal(size=(1, made.width)) * scale).astype(np.float32)
    close(Stack([made]).multiply(x), x.astype(np.float64) @ values.T, FORM)


@given(outlier=st.integers(0, GROUP - 1), factor=st.sampled_from([1e1, 1e3, 1e5]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_an_outlier_in_a_group_is_exact_enough(outlier, factor):
    """The rounding error is a share of the group's largest value, and so of the product."""
    made, values = matrix(FORM, 9, 2 * GROUP)
    x = np.random.default_rng(outlier).normal(size=(1, made.width)).astype(np.float32)
    x[0, outlier] = factor
    error = np.abs(Stack([made]).multiply(x) - x.astype(np.float64) @ values.T)
    assert error.max() <= 3e-5 * np.linalg.norm(values, axis=1).max() * np.linalg.norm(x)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_largest_codes_and_activations_do_not_overflow(form):
    """Bytes of all ones times activations of one size, whose digits are the largest there are."""
    made, _ = matrix(form, 3, 4 * form.group)
    ones = np.full_like(made.weight, np.iinfo(made.weight.dtype).max)
    full = Matrix(form, 3, made.width, ones, made.scales, made.biases)
    for sign in (1, -1):
        x = np.full((1, made.width), sign, np.float32)
        found = Stack([full]).multiply(x)
        many = Stack([full]).multiply(np.repeat(x, FOUR, axis=0))
        assert np.abs(found - many[:1]).max() <= 1e-5 * np.abs(many).max()


def test_groups_of_zeros_add_nothing():
    """A group of zeros has no scale to divide by."""
    made, values = matrix(FORM, 9, 3 * GROUP)
    x = np.zeros((1, made.width), np.float32)
    assert not Stack([made]).multiply(x).any()
    x[0, GROUP : 2 * GROUP] = 1
    close(Stack([made]).multiply(x), x.astype(np.float64) @ values.T)


@pytest.mark.parametrize("rows", range(2, FOUR))
def test_few_rows_have_the_bits_of_each_alone(rows, random):
    """The other rows of a call change nothing in a row."""
    made, _ = matrix(FORM, 70, 5 * GROUP)
    x = random.normal(size=(rows, made.width)).astype(np.float32)
    stack = Stack([made])
    assert np.array_equal(stack.multiply(x), np.concatenate([stack.multiply(r[None]) for r in x]))


@pytest.mark.parametrize("height", [1, 2, 3, 8, 37])
def test_a_row_of_weights_has_the_bits_of_itself_alone(height, random):
    """The other rows of weights in a call change nothing in it."""
    made, _ = matrix(FORM, height, 5 * GROUP)
    x = random.normal(size=(1, made.width)).astype(np.float32)
    singly = [
        Matrix(FORM, 1, made.width, *(part[row : row + 1] for part in
               (made.weight, made.scales, made.biases)))
        for row in range(height)
    ]  # fmt: skip
    found = np.concatenate([Stack([each]).multiply(x) for each in singly], axis=1)
    assert np.array_equal(Stack([made]).multiply(x), found)


def test_they_are_taken_where_the_format_and_the_processor_fit():
    """Codes within bytes use them where the processor multiplies bytes; all with AVX-512 VBMI."""
    for form in (affine(4, 32, "bf16"), FORM, affine(4, 128, "f16"), mxfp4()):
        assert fits(form) == (HAS_AVX2 or HAS_SDOT or HAS_VNNI)
    for bits in (3, 5, 6):
        assert fits(affine(bits, 64, "bf16")) == HAS_VBMI
    for form in (affine(2, 32, "bf16"), plain("f32")):
        assert not fits(form)
