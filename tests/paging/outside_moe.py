"""A model family from outside the package, in one file: qwen3_moe under other names."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from mlx_lm.models import qwen3_moe

from outlier_jupyter.families import MoeFamily, register

FAMILY = MoeFamily("outside_moe", top_k=("experts_used",))


@dataclass
class ModelArgs(qwen3_moe.ModelArgs):
    """The config has another name for the number of experts per token."""

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> Any:
        return super().from_dict({**params, "num_experts_per_tok": params["experts_used"]})


Model = qwen3_moe.Model


def add() -> None:
    """Register the model with mlx-lm and its family with the package."""
    sys.modules["mlx_lm.models.outside_moe"] = sys.modules[__name__]
    register(FAMILY)
