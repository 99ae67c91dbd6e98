"""Checks before a load that MLX can multiply a model's experts on this device.

Not every MLX backend runs every format, and the error comes only with the first token. So each kind
of expert matrix is tried here once, on a matrix of one group. mlx-lm itself, unpaged, runs the same
operations and would fail in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from ..errors import UnsupportedModel

WIDTH = 128
"""Width of the matrices tried: every group size divides it."""


def check_device(model: nn.Module, switches: Iterable[tuple[str, nn.Module]]) -> None:
    """Try each kind of matrix in the modules of `switches`, pairs (path, module).

    Raises:
        UnsupportedModel: MLX cannot multiply it on the default device.
    """
    dtype = _activations(model)
    tried: set[tuple[Any, ...]] = set()
    for path, module in switches:
        for name, linear in module.named_modules():
            if not isinstance(linear, SwitchLinear | QuantizedSwitchLinear):
                continue
            kind = _kind(linear)
            if kind in tried:
                continue
            tried.add(kind)
            try:
                mx.eval(_matrix(linear)(mx.zeros((1, 1, WIDTH), dtype), mx.array([[0]])))
            except (RuntimeError, ValueError) as error:
                device = mx.default_device().type.name.upper()
                raise UnsupportedModel(
                    f"MLX cannot multiply experts stored as {_words(kind)} on this device, a "
                    f"{device}, as in {path}.{name} ({str(error).rstrip('.')}): convert the model "
                    "with `mlx_lm.convert -q`, or run it where MLX has a GPU"
                ) from error


def _activations(model: nn.Module) -> mx.Dtype:
    """The dtype of the residual stream: the widest float type of the dense parameters."""
    dtype = mx.bfloat16
    found: set[mx.Dtype] = set()
    parameters: Any = tree_flatten(model.parameters())
    inside = tuple(
        f"{path}."
        for path, module in model.named_modules()
        if isinstance(module, SwitchLinear | QuantizedSwitchLinear)
    )
    for name, array in parameters:
        if mx.issubdtype(array.dtype, mx.floating) and not name.startswith(inside):
            found.add(array.dtype)
    if mx.float32 in found or {mx.float16, mx.bfloat16} <= found:
        return mx.float32
    return found.pop() if found else dtype


def _kind(linear: Any) -> tuple[Any, ...]:
    if isinstance(linear, SwitchLinear):
        return (linear.weight.dtype,)
    return linear.bits, linear.group_size, linear.mode, linear.global_scale is not None


def _words(kind: tuple[Any, ...]) -> str:
    if len(kind) == 1:
        return f"unquantised {str(kind[0]).removeprefix('mlx.core.')}"
    bits, _, mode, scaled = kind
    return f"{mode} of {bits} bit" + (" with a global scale" if scaled else "")


def _matrix(linear: Any) -> nn.Module:
    """One expert of WIDTH × WIDTH, stored as those of `linear` are."""
    tiny: nn.Module = SwitchLinear(WIDTH, WIDTH, 1, bias=False)
    if isinstance(linear, SwitchLinear):
        tiny.set_dtype(linear.weight.dtype)
        return tiny
    bits, group_size, mode, scaled = _kind(linear)
    tiny = tiny.to_quantized(group_size, bits, mode, global_scale=scaled)
    return tiny
