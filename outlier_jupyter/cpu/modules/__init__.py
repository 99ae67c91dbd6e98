"""mlx-lm's modules with the compiled kernels of `kernels/`, where MLX has no GPU.

A module stays the object that mlx-lm built, with its parameters; only its class changes, to a
subclass that computes natively what it can and leaves the rest to MLX. Numba is loaded only when a
model is swapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

if TYPE_CHECKING:
    from .install import Native


def wanted(kernels: str) -> bool:
    """Whether a model loaded with `kernels` computes natively on this machine."""
    return kernels == "auto" and mx.default_device() == mx.cpu


def native(model: nn.Module) -> Native:
    """The native part of `model`, not yet compiled; its switches must still be mlx-lm's."""
    from .install import Native

    return Native(model)


def several_caches(model: nn.Module, caches: Sequence[Sequence[Any]]) -> list[Any] | None:
    """The caches of prompts that share calls, each its own, as native layers take them.

    Args:
        caches: of each prompt, one per layer.

    Returns:
        `SeveralCaches`, one per layer; None if the model is not native, or not all of it.
    """
    for _, module in model.named_modules():
        if hasattr(type(module), "several_caches"):
            found: list[Any] | None = module.several_caches(caches)
            return found
    return None


def processor_words() -> str:
    """The processor and the vector instructions in use, such as `znver4, AVX-512, AVX2, F16C`."""
    from ..kernels.processor import VECTORS, cpu_name

    return f"{cpu_name()}, {VECTORS}"


__all__ = ["native", "processor_words", "several_caches", "wanted"]
