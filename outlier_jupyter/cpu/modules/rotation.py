"""The rotary embeddings of mlx-lm, as numbers for `HeadRotation`."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx_lm.models import rope_utils

from .arrays import view


class Rotation(NamedTuple):
    """How a rotary embedding turns the first coordinates of a head.

    Attributes:
        frequencies: radians per token of each pair of coordinates.
        paired: whether a pair is two neighbours, not one of each half.
        magnitude: factor of what is rotated.
    """

    frequencies: npt.NDArray[np.float64]
    paired: bool
    magnitude: float = 1.0


MAGNITUDES = {
    rope_utils.SuScaledRoPE: "_scale",
    rope_utils.YarnRoPE: "mscale",
    rope_utils.Llama3RoPE: None,
    rope_utils.ProportionalRoPE: None,
}
"""Classes with wavelengths of their own, and the attribute of their magnitude."""


def is_fixed(rope: Any) -> bool:
    """Whether the rotation of a module is known, and does not change with the tokens' number."""
    return type(rope) is nn.RoPE or type(rope) in MAGNITUDES


def rotation_of(rope: Any) -> Rotation:
    """The rotation of a module of MLX or mlx-lm that is fixed."""
    kind = type(rope)
    if kind is nn.RoPE:
        places = np.arange(0, rope.dims, 2, dtype=np.float64) / rope.dims
        return Rotation(rope.scale * float(rope.base) ** -places, bool(rope.traditional))
    name = MAGNITUDES[kind]
    magnitude = 1.0 if name is None else float(getattr(rope, name))
    return Rotation(
        1 / view(rope._freqs).astype(np.float64), bool(getattr(rope, "traditional", False)),
        magnitude,
    )  # fmt: skip
