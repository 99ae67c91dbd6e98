"""The experts' MLP over slots, against float64."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models import gemma4_text, kimi_k3, step3p5
from mlx_lm.models.activations import SwigluOAI
from mlx_lm.models.deepseek_v41 import DeepseekV41SwiGLU
from mlx_lm.models.switch_layers import SwiGLU

from outlier_jupyter.cpu.kernels import (
    Activation,
    Bank,
    Experts,
    affine,
    experts_many,
    mxfp4,
    plain,
)
from outlier_jupyter.cpu.kernels.activations import KINDS

from .conftest import bank, close

SLOTS = 6
MODULES = {
    "swiglu": SwiGLU(),
    "geglu": gemma4_text.GeGLU(),
    "swiglu_oai": SwigluOAI(1.702, 1.5),
    "swiglu_limited": DeepseekV41SwiGLU(1.5),
    "swiglu_clamped": step3p5.ClampedSwiGLU(1.5),
    "situ": kimi_k3.SiTU(0.7, 1.5),
    "relu2": nn.ReLU2(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approx="precise"),
    "gelu_fast": nn.GELU(approx="fast"),
}
PARAMETERS = {"swiglu_oai": (1.702, 1.5), "situ": (0.7, 1.5)}


def experts_of(first, second, kind, width=128, hidden=128, biased=False):
    """Experts, and the float64 values of their matrices and biases."""
    activation = Activation(kind, *PARAMETERS.get(kind, (0.0, 1.5)))
    random, banks, values = np.random.default_rng(0), [], []
    shapes = [(first, hidden, width), (first, hidden, width), (second, width, hidden)]
    for seed, (form, height, wide) in enumerate(shapes):
        made, numbers = bank(form, SLOTS, height, wide, seed=seed)
        bias = random.normal(size=(SLOTS, height)).astype(np.float32) * biased
        if biased:
            made = Bank(**(vars(made) | {"bias": bias, "bias_kind": "f32"}))
        banks.append(made)
        values.append((numbers, bias.astype(np.float64)))
    gate = banks[1] if activation.gated else None
    return Experts(banks[0], gate, banks[2], activation), values


def reference(x, slots, values, kind):
    """One (row, slot) at a time, with mlx-lm's activation and float64 products."""
    out = np.empty((*slots.shape, values[2][0].shape[1]))
    for at in np.ndindex(slots.shape):
        inner = [numbers[slots[at]] @ x[at[0]] + bias[slots[at]] for numbers, bias in values[:2]]
        up, gate = (mx.array(part.astype(np.float32)) for part in inner)
        hidden = MODULES[kind](up, gate) if KINDS[kind] else MODULES[kind](up)
        numbers, bias = values[2]
        out[at] = numbers[slots[at]] @ np.array(hidden).astype(np.float64) + bias[slots[at]]
    return out


def routed(rows, k, seed=0):
    """Random slots [rows, k], no row with the same one twice, some far more often than others."""
    random = np.random.default_rng(seed)
    shares = np.array([8, 4, 2, 1, 1, 1]) / 17
    return np.stack([random.choice(SLOTS, k, replace=False, p=shares) for _ in range(rows)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_activation_is_mlx_lms(kind, random):
    """Each activation in use, few rows and many, with biases, is within 1e-5 of float64."""
    experts, values = experts_of(plain("f32"), plain("f32"), kind, biased=True)
    for rows in (1, 128):
        x, slots = random.normal(size=(rows, 128)).astype(np.float32), routed(rows, 3)
        wanted = reference(x, slots, values, kind)
        close(experts.multiply(x, slots), wanted)
        close(experts_many(x, slots, experts), wanted)


@given(data=st.data())
@settings(max_examples=8, deadline=None, derandomize=True)
def test_formats_may_be_mixed_at_any_size(data):
    """The down projection may have another format than up and gate; sizes and rows are free."""
    forms = [(affine(4, 64, "bf16"), affine(6, 64, "bf16")), (mxfp4(), mxfp4())]
    first, second = data.draw(st.sampled_from(forms), "formats")
    width, hidden = (64 * data.draw(st.integers(1, 5), name) for name in ("width", "hidden"))
    rows, k = data.draw(st.integers(1, 9), "rows"), data.draw(st.integers(1, 6), "k")
    experts, values = experts_of(first, second, "swiglu", width, hidden)
    x = np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)
    slots = routed(rows, k, seed=k)
    close(experts.multiply(x, slots), reference(x, slots, values, "swiglu"), first, second)


def test_a_row_may_choose_an_expert_twice(random):
    """Models that map unused places to expert 0 get it as often as the ids name it."""
    experts, values = experts_of(plain("f32"), plain("f32"), "swiglu")
    x, slots = random.normal(size=(2, 128)).astype(np.float32), np.array([[0, 0, 3], [0, 5, 0]])
    wanted = reference(x, slots, values, "swiglu")
    close(experts.multiply(x, slots), wanted)
    close(experts.multiply(x[:1], slots[:1]), wanted[:1])


def test_matrices_that_do_not_fit_are_refused():
    """A gate that the activation does not take, or a missing one, is refused."""
    up, _ = bank(affine(4, 64, "f32"), 2, 64, 64)
    with pytest.raises(ValueError, match="does not fit"):
        Experts(up, None, up, Activation("swiglu"))
    with pytest.raises(ValueError, match="does not fit"):
        Experts(up, up, up, Activation("relu2"))


def test_an_activation_of_large_numbers_is_finite(random):
    """Where e^x overflows float32, the activation has its limit and no NaN."""
    experts, _ = experts_of(plain("f32"), plain("f32"), "swiglu")
    x = (random.normal(size=(1, 128)) * 1e4).astype(np.float32)
    assert np.isfinite(experts.multiply(x, np.array([[0, 1]]))).all()
    assert math.isfinite(float(x.sum()))
