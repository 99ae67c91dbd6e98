"""Gives a MoE block a class of its own: the tap sees what goes into it, its functions, its end.

Only where a block multiplies a switch's output by its weights itself does the output's own class
see it (weights.py). A few blocks hand both to a function of their module, compiled or a kernel;
one multiplies the switch's input. The class made here runs the block's own code, with the names
of such functions bound to ones that tell the tap of their arguments and then call the original.
Nothing outside of this model's blocks is changed, neither mlx-lm's modules nor other models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .router_tap import RouterTap


def follow(block: nn.Module, tap: RouterTap) -> None:
    """Have `tap` told of the calls of `block`, which computes as before."""
    kind = type(block)
    call = _told(kind.__call__, tap)

    def __call__(self: nn.Module, x: mx.array, *args: Any, **kwargs: Any) -> Any:  # noqa: N807  # a method
        output = call(self, tap.watch_input(x), *args, **kwargs)
        tap.end_watch(output)
        return output

    names = {"__call__": __call__, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    block.__class__ = type(kind.__name__, (kind,), names)


def _told(call: Callable[..., Any], tap: RouterTap) -> Callable[..., Any]:
    """`call` with the functions of its module that it names bound to ones that tell `tap`."""
    if not isinstance(call, FunctionType):
        return call
    known = call.__globals__
    told = {
        name: _telling(known[name], tap)
        for name in call.__code__.co_names
        if callable(known.get(name)) and not isinstance(known[name], type | ModuleType)
    }
    if not told:
        return call
    return FunctionType(
        call.__code__, {**known, **told}, call.__name__, call.__defaults__, call.__closure__
    )


def _telling(function: Callable[..., Any], tap: RouterTap) -> Callable[..., Any]:
    @functools.wraps(function, assigned=("__doc__",), updated=())
    def telling(*args: Any, **kwargs: Any) -> Any:
        tap.inspect_arguments((*args, *kwargs.values()))
        return function(*args, **kwargs)

    return telling
