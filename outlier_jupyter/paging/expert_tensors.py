"""Where a switch's expert tensors lie on disk, as traced through mlx-lm's `sanitize`.

What is found is held against the dtype and shape the model itself expects. Nothing of the model
is evaluated and nothing but headers is read, except for a tensor so small (an expert's scale)
that it stays in RAM.
"""

from __future__ import annotations

from collections.abc import Iterable

import mlx.core as mx
import mlx.nn as nn

from ..checkpoint import ArrayView, Checkpoint, ExpertPart
from ..errors import NotPageable
from .sanitize_trace import Computed, Recipe, trace_sanitize
from .slots import host_bytes, safetensors_dtype
from .switch import expert_tensors

HELD_NBYTES = 64
"""Bytes of an expert's tensor up to which it is kept in RAM when mlx-lm computes it."""


class Locator:
    """The expert tensors of a model's switches.

    Args:
        model: as mlx-lm loaded it, lazily, with its switches still in place.
        checkpoint: the headers of the files it was loaded from.
        switches: (path in the model, module) of each.
    """

    def __init__(
        self, model: nn.Module, checkpoint: Checkpoint, switches: Iterable[tuple[str, nn.Module]]
    ) -> None:
        self._folder = checkpoint.folder
        self._tensors = {path: expert_tensors(module) for path, module in switches}
        wanted = [f"{path}.{name}" for path, has in self._tensors.items() for name in has]
        self._recipes = trace_sanitize(model, checkpoint, wanted) if wanted else {}

    def parts(self, path: str) -> tuple[ExpertPart, ...]:
        """The expert tensors of the switch at `path`, in the module's order.

        Raises:
            NotPageable: they do not lie in the checkpoint as the model holds them.
        """
        return tuple(self._part(path, name, array) for name, array in self._tensors[path].items())

    def _part(self, path: str, name: str, array: mx.array) -> ExpertPart:
        recipe: Recipe | None = self._recipes.get(f"{path}.{name}")
        if recipe is None:
            raise NotPageable(
                f"{path}.{name} is in no shard of {self._folder} in a form that mlx-lm takes as it "
                "is: convert the model with `mlx_lm.convert`"
            )
        dtype = safetensors_dtype(array.dtype)
        shape = tuple(array.shape)
        if isinstance(recipe, Computed):
            small = array.nbytes <= HELD_NBYTES * shape[0] and recipe.nbytes <= 4 * array.nbytes
            if not small:
                raise NotPageable(
                    f"the experts in {self._folder} cannot be read as they lie: mlx-lm computes "
                    f"{path}.{name} from them ({recipe.how}); convert the model with "
                    "`mlx_lm.convert`"
                )
            mx.eval(array)
            return ExpertPart(
                name, dtype, ArrayView(shape, array.dtype.size, ()), bytes(host_bytes(array))
            )
        if recipe.view.shape != shape or recipe.dtype != array.dtype:
            raise NotPageable(
                f"{path}.{name} is {recipe.dtype} {list(recipe.view.shape)} on disk, but the model "
                f"wants {array.dtype} {list(shape)}: convert it with `mlx_lm.convert`"
            )
        return ExpertPart(name, dtype, recipe.view)
