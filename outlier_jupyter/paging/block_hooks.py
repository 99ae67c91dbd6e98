"""Block hooks: give a MoE block a class of its own, so that the router tap sees its input, output
and function calls.

The tap's watched arrays catch the weights only where a block multiplies the switch's output itself.
A few blocks pass both to a function of their module, compiled or a kernel; one multiplies the
switch's input. The class made here runs the block's own code, with the names of such functions
bound to wrappers that show the tap their arguments and then call the original. Nothing outside of
this model's blocks is changed, neither mlx-lm's modules nor other models.
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
    """Show `tap` the calls of `block`, which computes as before."""
    kind = type(block)
    call = _hooked(kind.__call__, tap)

    def __call__(self: nn.Module, x: mx.array, *args: Any, **kwargs: Any) -> Any:  # noqa: N807  # a method
        output = call(self, tap.watch_input(x), *args, **kwargs)
        tap.end_watch(output)
        return output

    names = {"__call__": __call__, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    block.__class__ = type(kind.__name__, (kind,), names)


def _hooked(call: Callable[..., Any], tap: RouterTap) -> Callable[..., Any]:
    """`call`, with the functions of its module that it names replaced by wrappers."""
    if not isinstance(call, FunctionType):
        return call
    known = call.__globals__
    wrapped = {
        name: _wrapped(known[name], tap)
        for name in call.__code__.co_names
        if callable(known.get(name)) and not isinstance(known[name], type | ModuleType)
    }
    if not wrapped:
        return call
    return FunctionType(
        call.__code__, {**known, **wrapped}, call.__name__, call.__defaults__, call.__closure__
    )


def _wrapped(function: Callable[..., Any], tap: RouterTap) -> Callable[..., Any]:
    @functools.wraps(function, assigned=("__doc__",), updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        tap.inspect_arguments((*args, *kwargs.values()))
        return function(*args, **kwargs)

    return wrapper
