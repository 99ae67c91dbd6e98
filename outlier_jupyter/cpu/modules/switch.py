"""The experts' MLP over slots, computed with compiled kernels.

The switch stays mlx-lm's module; the paged switch around it passes slot ids as usual. A caller that
replaces its arrays (a resize of the bank) must call `release` first, or the old ones stay in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from ..kernels import Activation, Bank, Experts, experts_many
from .arrays import KINDS, F32s, as_rows, view
from .linear import format_of

Slots = npt.NDArray[Any]

WORTH_TILES = 1 << 22
"""Bytes, of the expert of each pair, from which on tiles pay: they are six kernels, not one."""


def activation_of(module: Any) -> Activation | None:
    """The kernels' form of an activation module, or None if they do not know it."""
    name = type(module).__name__
    if name == "GELU":
        kinds = {"none": "gelu", "precise": "gelu_tanh", "tanh": "gelu_tanh", "fast": "gelu_fast"}
        return Activation(kinds[module._approx])
    if name == "SwigluOAI":
        return Activation("swiglu_oai", module._alpha, module._limit)
    if name == "DeepseekV41SwiGLU":
        limited = module.limit > 0
        return Activation("swiglu_limited", 0.0, module.limit) if limited else Activation("swiglu")
    if name == "ClampedSwiGLU":
        return Activation("swiglu_clamped", 0.0, module.limit)
    if name == "SiTU":
        return Activation("situ", module.beta, module.linear_beta or 0.0)
    plain = {
        "SwiGLU": "swiglu", "PreciseSwiGLU": "swiglu", "GeGLU": "geglu",
        "ReLU2": "relu2", "SiLU": "silu",
    }  # fmt: skip
    return Activation(plain[name]) if name in plain else None


def projections(switch: Any) -> tuple[Any, Any | None, Any]:
    """A switch's up, gate (None without one) and down projections."""
    if isinstance(switch, SwitchGLU):
        return switch.up_proj, switch.gate_proj, switch.down_proj
    return switch.fc1, None, switch.fc2


def bank_of(module: Any) -> Bank:
    """A switch's linear as a bank of the kernels, over the same memory."""
    form = format_of(module)
    assert form is not None
    weight = view(module.weight)
    width = weight[0, 0].nbytes * 8 // form.bits
    bias = view(module.bias) if "bias" in module else None
    return Bank(
        form,
        weight.shape[1],
        width,
        weight,
        view(module.scales) if form.kind != "plain" else None,
        view(module.biases) if form.kind == "affine" else None,
        bias,
        "none" if bias is None else KINDS[module.bias.dtype],
    )


class NativePartialExperts:
    """A call's pairs (row, one of its experts), computed as they are added, into one output.

    A pair's result does not depend on the other pairs of the same `add`, as long as all pairs of
    one expert are added together. Pairs that are never added stay zero.
    """

    def __init__(
        self, compute: Callable[[F32s, Slots], F32s], x: F32s, shape: tuple[int, ...]
    ) -> None:
        self._compute, self._x, self._shape = compute, x, shape
        self._output: F32s = np.zeros((math.prod(shape), x.shape[-1]), np.float32)

    def add(self, mine: Slots, slots: Slots) -> None:
        """Compute the pairs numbered `mine`, whose experts are in `slots`; both [pairs]."""
        if len(self._x) == 1:
            found = self._compute(self._x, slots[None])[0]
        else:
            found = self._compute(self._x[mine // self._shape[-1]], slots[:, None])[:, 0]
        self._output[mine] = found

    def rows(self) -> F32s:
        """All pairs' outputs [..., k, width]."""
        return self._output.reshape(*self._shape, -1)

    def output(self) -> mx.array:
        """`rows` as an MLX array."""
        return mx.array(self.rows())


class _Switch:
    """The native behaviour of a switch."""

    _native: Experts | None

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        rows = as_rows(x)
        found = self.compute(rows, view(indices).reshape(len(rows), -1))
        return mx.array(found.reshape(*indices.shape, found.shape[-1]))

    def parts(self, x: mx.array | F32s, shape: tuple[int, ...]) -> NativePartialExperts:
        """As a call, but computed part by part: x [..., width], ids of `shape` [..., k]."""
        return NativePartialExperts(
            self.compute, as_rows(x) if isinstance(x, mx.array) else x, shape
        )

    def compute(self, x: F32s, slots: Slots) -> F32s:
        """x [rows, width], slots [rows, k] → [rows, k, output]."""
        experts = self.connected()
        if len(x) > 1 and slots.size * experts.nbytes >= WORTH_TILES:
            return experts_many(x, slots.astype(np.int64), experts)
        return experts.multiply(x, slots.astype(np.int64))

    def connected(self) -> Experts:
        """The kernels over the present arrays; created again after a `release`."""
        if self._native is None:
            object.__setattr__(self, "_native", _connected(self))
        assert self._native is not None
        return self._native

    def release(self) -> None:
        """Drop the references to the bank's memory; the next call uses the arrays at that time."""
        object.__setattr__(self, "_native", None)


class NativeSwitchGLU(_Switch, SwitchGLU):
    """A switch with gates."""


class NativeSwitchMLP(_Switch, SwitchMLP):
    """A switch without gates."""


SWITCHES: dict[type, type] = {SwitchGLU: NativeSwitchGLU, SwitchMLP: NativeSwitchMLP}


def can_swap(switch: nn.Module) -> bool:
    """Whether kernels know the switch's formats and its activation."""
    if type(switch) not in SWITCHES:
        return False
    up, gate, down = projections(switch)
    forms = [format_of(part) for part in (up, gate, down) if part is not None]
    activation = activation_of(switch.activation)
    if None in forms or activation is None or activation.gated != (gate is not None):
        return False
    biases = {part.bias.dtype if "bias" in part else None for part in (up, gate or up, down)}
    return (gate is None or format_of(up) == format_of(gate)) and len(biases) == 1


def swap_switch(switch: Any) -> None:
    """Make a switch compute natively."""
    object.__setattr__(switch, "_native", None)
    switch.__class__ = SWITCHES[type(switch)]


def _connected(switch: Any) -> Experts:
    up, gate, down = (None if part is None else bank_of(part) for part in projections(switch))
    activation = activation_of(switch.activation)
    assert up is not None and down is not None and activation is not None
    return Experts(up, gate, down, activation)
