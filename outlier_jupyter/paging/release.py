"""Takes the weights out of a model in place, so that nobody who still points to it keeps them.

A notebook keeps what a cell returned, a traceback keeps the locals of every frame it passed
through, and a closed engine stays in the variable it was bound to. None of them may hold gigabytes.
So the modules are emptied themselves; the bank's rows are the bank's to let go of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import mlx.nn as nn

from ..errors import EngineClosed

STAYS = ("_no_grad", "_training")
"""What mlx.nn's own methods look for in every module."""


class ReleasedModule(nn.Module):
    """A module of a model whose engine was closed: it has no weights and computes nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise EngineClosed("this model's engine was closed: load the model again")


def release(model: nn.Module) -> None:
    """Empty `model` and every module in it that holds anything, a paged switch's own included.

    Whoever calls one of them afterwards gets `EngineClosed`.
    """
    for module in list(_modules(model)):
        module.clear()
        attributes = vars(module)
        for name in attributes.keys() - STAYS:
            del attributes[name]
        module.__class__ = ReleasedModule


def _modules(model: nn.Module) -> Iterator[Any]:
    """All modules below `model` and it itself that hold anything, each once."""
    seen: set[int] = set()
    left: list[Any] = [model]
    while left:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            # Some stand outside their parent's dictionary: a paged switch's own module does.
            outside = [each for each in vars(thing).values() if isinstance(each, nn.Module)]
            left += outside
            # One that has nothing is left alone: mlx-lm's activations are shared by all models.
            if thing or outside:
                yield thing
        if isinstance(thing, dict):
            left += thing.values()
        elif isinstance(thing, list | tuple):
            left += thing
