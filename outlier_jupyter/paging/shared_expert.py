"""Has a block's shared expert computed before its block asks for it, while experts are read.

Every token goes through it, so nothing has to be known but the block's input. The module keeps its
place and its arithmetic; it hands out what was computed of the very array it is then given. A block
that gives it another array, or asks first, gets it computed as ever, and is not helped again.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..families import names


class Beside:
    """The shared expert of one block."""

    def __init__(self, module: nn.Module) -> None:
        self._compute = type(module).__call__
        self._module = module
        self._input: mx.array | None = None
        self._output: Any = None
        self._helps = True

    def compute(self, x: mx.array) -> None:
        """Compute it for the block's input, unless what was computed last was not asked for."""
        self._helps = self._helps and self._input is None
        self._input = self._output = None
        if self._helps:
            output = self._compute(self._module, x)
            self._input, self._output = x, output

    def take(self, x: object) -> Any:
        """What was computed for `x`, once, or None."""
        if self._input is None or x is not self._input:
            return None
        found, self._input, self._output = self._output, None, None
        return found


class _Prefetch:
    """What a module does that may have been computed already."""

    _beside: Beside

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> Any:
        found = None if args or kwargs else self._beside.take(x)
        if found is not None:
            return found
        return super().__call__(x, *args, **kwargs)  # type: ignore[misc]  # the other base has it


def shared_expert(block: nn.Module) -> Beside | None:
    """The shared expert of `block`, which from now on may be computed early; None without one."""
    for name in names("shared_experts"):
        module = block.get(name)
        if isinstance(module, nn.Module):
            beside = Beside(module)
            kind = type(module)
            module.__class__ = type(
                kind.__name__, (_Prefetch, kind), {"__module__": kind.__module__}
            )
            object.__setattr__(module, "_beside", beside)
            return beside
    return None
