"""mlx-lm's modules computing with the kernels of `kernels/` where MLX has no GPU.

A module stays the object that mlx-lm built, parameters and all; only its class changes, to a
subclass that computes natively what it can and leaves the rest to MLX. Numba is loaded only when a
model is to be swapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

if TYPE_CHECKING:
    from .install import Native


def wanted(kernels: str) -> bool:
    """Whether a model loaded with `kernels` computes natively on this machine."""
    return kernels == "auto" and mx.default_device() == mx.cpu


def native(model: nn.Module) -> Native:
    """The native part of `model`, in the making; its switches are still mlx-lm's."""
    from .install import Native

    return Native(model)


def processor_words() -> str:
    """What the kernels are compiled for, and what of it they use: `znver4, AVX-512, AVX2, F16C`."""
    from ..kernels.processor import VECTORS, cpu_name

    return f"{cpu_name()}, {VECTORS}"


__all__ = ["native", "processor_words", "wanted"]
