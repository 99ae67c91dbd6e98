"""Refuses weights whose scales do not fit them, where mlx-lm finds out how they are quantised.

mlx-lm divides a layer's width by that of its scales. Scales that are wider give groups of 0
weights, by which MLX divides: that ends the process (seen with 0.32.4).
"""

from __future__ import annotations

from typing import Any

import mlx.nn as nn
from mlx_lm import utils

from ..errors import CheckpointError

_infer = utils.infer_quant_config


def _checked(path: str, module: nn.Module, weights: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _infer(path, module, weights)
    if found["group_size"] < 1:
        raise CheckpointError(
            f"the weights have {weights[f'{path}.scales'].shape[-1]:,} scales a row for a layer "
            f"({path[-100:]}) of {module.weight.shape[-1]:,} inputs: copy config.json and the "
            "shards from the original model"
        )
    return found


utils.infer_quant_config = _checked
