"""Where a switch's expert tensors lie on disk: which tensors of the checkpoint stand for them.

What is found is held against the dtype and shape the model itself expects; nothing of the model
is evaluated, and nothing but headers is read.
"""

from __future__ import annotations

from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from ..checkpoint import Checkpoint, ExpertPart
from ..errors import UnsupportedModel
from .slots import part_matches


def expert_parts(path: str, module: nn.Module, checkpoint: Checkpoint) -> tuple[ExpertPart, ...]:
    """The expert tensors of the switch `module` at `path` of the model, in the module's order.

    Raises:
        UnsupportedModel: they are not in the checkpoint as the model holds them.
    """
    parts = []
    tensors: Any = tree_flatten(module.parameters(), destination={})
    for name, array in tensors.items():
        part = _locate(path, name, array.shape[0], checkpoint)
        if part is None:
            raise UnsupportedModel(
                f"{path}.{name} is in no shard of {checkpoint.folder}: this checkpoint names its "
                "experts in a way that cannot be paged yet; convert it with `mlx_lm.convert`"
            )
        if not part_matches(part, array):
            raise UnsupportedModel(
                f"{path}.{name} is {part.dtype} {[part.experts, *part.shape]} on disk, but the "
                f"model wants {array.dtype} {list(array.shape)}: convert it with `mlx_lm.convert`"
            )
        parts.append(part)
    return tuple(parts)


def _locate(path: str, name: str, experts: int, checkpoint: Checkpoint) -> ExpertPart | None:
    """The experts' tensor as MLX stacks it, or as Hugging Face's one tensor per expert."""
    block = path.rpartition(".")[0]
    singles = [f"{block}.experts.{expert}.{name}" for expert in range(experts)]
    return checkpoint.stacked(name, f"{path}.{name}") or checkpoint.single(name, singles)
