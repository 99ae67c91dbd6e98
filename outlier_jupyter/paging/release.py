"""Empties a model in place, so that references to it do not keep its weights in memory.

A notebook keeps what a cell returned, a traceback keeps the locals of every frame it passed
through, and a closed engine stays in its variable. None of them may keep gigabytes alive, so the
modules themselves are emptied. The bank frees its own rows. What MLX keeps of freed memory goes
back to the system here, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NoReturn

import mlx.core as mx
import mlx.nn as nn

from ..errors import EngineClosed

log = logging.getLogger(__name__)

STAYS = ("_no_grad", "_training")
"""Attributes that mlx.nn's own methods need in every module."""


class ReleasedModule(nn.Module):
    """A module of a model whose engine was closed: it has no weights, and calling it fails."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise EngineClosed("this model's engine was closed: load the model again")


def release(model: nn.Module) -> None:
    """Empty `model` and every module in it that has content, also inside paged switches.

    Calling one of them afterwards raises `EngineClosed`.
    """
    for module in list(_modules(model)):
        module.clear()
        attributes = vars(module)
        for name in attributes.keys() - STAYS:
            del attributes[name]
        module.__class__ = ReleasedModule


def clear_cache() -> None:
    """Return the memory that MLX keeps for new arrays to the system.

    After a failed read MLX may raise the error a second time, out of this unrelated call. Whatever
    is computed is evaluated, which raises it where it belongs, so here it is only logged.
    """
    try:
        mx.clear_cache()
    except RuntimeError as error:
        log.info("MLX raised an earlier error again: %s", error)
        mx.clear_cache()


def _modules(model: nn.Module) -> Iterator[Any]:
    """`model` and all modules below it that have content, each once."""
    seen: set[int] = set()
    left: list[Any] = [model]
    while left:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            # Some are outside their parent's dictionary, such as a paged switch's inner module.
            outside = [each for each in vars(thing).values() if isinstance(each, nn.Module)]
            left += outside
            # Empty ones are left alone: mlx-lm's activations are shared by all models.
            if thing or outside:
                yield thing
        if isinstance(thing, dict):
            left += thing.values()
        elif isinstance(thing, list | tuple):
            left += thing
