"""Finds where a switch's expert tensors are on disk, traced through mlx-lm's `sanitize`.

Each result is checked against the dtype and shape that the model itself expects. Nothing of the
model is evaluated and only headers are read, except for tensors so small (an expert's scale) that
they stay in RAM.
"""

from __future__ import annotations

from collections.abc import Iterable

import mlx.core as mx
import mlx.nn as nn

from ..checkpoint import ArrayView, Checkpoint, ExpertPart
from ..errors import NotPageable
from .sanitize_trace import Computed, Origin, trace_sanitize
from .slot_bank import host_bytes, safetensors_dtype
from .switch import stacked_tensors

IN_MEMORY_NBYTES = 64
"""Bytes per expert up to which a tensor that mlx-lm computes is kept in RAM."""


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
        self._tensors = {path: stacked_tensors(module) for path, module in switches}
        names = [f"{path}.{name}" for path, arrays in self._tensors.items() for name in arrays]
        self._origins = trace_sanitize(model, checkpoint, names) if names else {}

    def parts(self, path: str) -> tuple[ExpertPart, ...]:
        """The expert tensors of the switch at `path`, in the module's order.

        Raises:
            NotPageable: they are not in the checkpoint in the form that the model uses.
        """
        return tuple(self._part(path, name, array) for name, array in self._tensors[path].items())

    def _part(self, path: str, name: str, array: mx.array) -> ExpertPart:
        origin: Origin | None = self._origins.get(f"{path}.{name}")
        if origin is None:
            raise NotPageable(
                f"{path}.{name} is in no shard of {self._folder} in a form that mlx-lm uses "
                "unchanged: convert the model with `mlx_lm.convert`"
            )
        dtype = safetensors_dtype(array.dtype)
        shape = tuple(array.shape)
        if isinstance(origin, Computed):
            small = (
                array.nbytes <= IN_MEMORY_NBYTES * shape[0] and origin.nbytes <= 4 * array.nbytes
            )
            if not small:
                raise NotPageable(
                    f"the experts in {self._folder} cannot be read unchanged: mlx-lm computes "
                    f"{path}.{name} from them ({origin.how}); convert the model with "
                    "`mlx_lm.convert`"
                )
            mx.eval(array)
            return ExpertPart(
                name, dtype, ArrayView(shape, array.dtype.size, ()), bytes(host_bytes(array))
            )
        if origin.view.shape != shape or origin.dtype != array.dtype:
            raise NotPageable(
                f"{path}.{name} is {origin.dtype} {list(origin.view.shape)} on disk, but the model "
                f"wants {array.dtype} {list(shape)}: convert it with `mlx_lm.convert`"
            )
        return ExpertPart(name, dtype, origin.view)
