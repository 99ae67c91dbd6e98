"""Few rows of activations, multiplied as integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.cpu.kernels import Matrix, Stack, affine, mxfp4
from outlier_jupyter.cpu.kernels.integer_activations import VALUES, fits
from outlier_jupyter.cpu.kernels.rows import FOUR
from outlier_jupyter.cpu.kernels.unpack import HAS_AVX2

from .conftest import close, matrix

FORM = affine(4, 64, "bf16")


@given(sizes=st.lists(st.integers(-25, 25), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_groups_of_all_sizes_are_within_the_kernels_bound(sizes):
    """Each group has its own scale, so small groups beside large ones lose no precision."""
    made, values = matrix(FORM, 9, VALUES * len(sizes), seed=len(sizes))
    scale = np.repeat(10.0 ** np.array(sizes), VALUES)
    x = (np.random.default_rng(3).normal(size=(1, made.width)) * scale).astype(np.float32)
    close(Stack([made]).multiply(x), x.astype(np.float64) @ values.T)


@given(outlier=st.integers(0, VALUES - 1), factor=st.sampled_from([1e1, 1e3, 1e5]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_an_outlier_in_a_group_is_exact_enough(outlier, factor):
    """The rounding error is a share of the group's largest value, and so of the product."""
    made, values = matrix(FORM, 9, 2 * VALUES)
    x = np.random.default_rng(outlier).normal(size=(1, made.width)).astype(np.float32)
    x[0, outlier] = factor
    close(Stack([made]).multiply(x), x.astype(np.float64) @ values.T)


def test_groups_of_zeros_add_nothing():
    """A group of zeros has no scale to divide by."""
    made, values = matrix(FORM, 9, 3 * VALUES)
    x = np.zeros((1, made.width), np.float32)
    assert not Stack([made]).multiply(x).any()
    x[0, VALUES : 2 * VALUES] = 1
    close(Stack([made]).multiply(x), x.astype(np.float64) @ values.T)


@pytest.mark.parametrize("rows", range(2, FOUR))
def test_few_rows_have_the_bits_of_each_alone(rows, random):
    """The other rows of a call change nothing in a row."""
    made, _ = matrix(FORM, 70, 5 * VALUES)
    x = random.normal(size=(rows, made.width)).astype(np.float32)
    stack = Stack([made])
    assert np.array_equal(stack.multiply(x), np.concatenate([stack.multiply(r[None]) for r in x]))


@pytest.mark.parametrize("height", [1, 2, 3, 8, 37])
def test_a_row_of_weights_has_the_bits_of_itself_alone(height, random):
    """The other rows of weights in a call change nothing in it."""
    made, _ = matrix(FORM, height, 5 * VALUES)
    x = random.normal(size=(1, made.width)).astype(np.float32)
    singly = [
        Matrix(FORM, 1, made.width, *(part[row : row + 1] for part in
               (made.weight, made.scales, made.biases)))
        for row in range(height)
    ]  # fmt: skip
    found = np.concatenate([Stack([each]).multiply(x) for each in singly], axis=1)
    assert np.array_equal(Stack([made]).multiply(x), found)


def test_they_are_taken_where_the_format_and_the_processor_fit():
    """Integers are used for 4-bit weights whose groups fill a vector of 32 bytes."""
    assert fits(FORM, 8) == HAS_AVX2
    for form in (affine(4, 32, "bf16"), affine(8, 64, "bf16"), mxfp4()):
        assert not fits(form, 8)
    assert not fits(FORM, 16)
