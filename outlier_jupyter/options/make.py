"""Options from keyword arguments: built, checked, and shown in a function's signature."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from ..errors import OptionError, shown
from .generate import GenerateOptions
from .load import LoadOptions

Options = TypeVar("Options", "LoadOptions", "GenerateOptions")
Function = TypeVar("Function", bound=Callable[..., Any])


def takes(kind: type[LoadOptions | GenerateOptions]) -> Callable[[Function], Function]:
    """Show the fields of `kind` in a function's signature, in place of its `**options`.

    So `help`, `?` and completion list every option, and a field is still declared only once.
    """

    def decorate(function: Function) -> Function:
        whole = inspect.signature(function)
        own = [p for p in whole.parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type
            )
            for f in fields(kind)
        ]
        # setattr: to a type checker a callable has no signature of its own.
        setattr(function, "__signature__", whole.replace(parameters=[*own, *options]))  # noqa: B010, see above
        return function

    return decorate


def make(kind: type[Options], values: dict[str, Any]) -> Options:
    """Build `kind` from keyword arguments; an unknown name is refused with the nearest known one.

    Raises:
        OptionError: unknown name, wrong type, or a value outside its rule.
    """
    known = [f.name for f in fields(kind)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"such are {', '.join(known[:9])} …"
            raise OptionError(f"there is no option {shown(name)}; {hint}")
    return kind(**values)


def settled(kind: type[Options], values: dict[str, Any]) -> dict[str, Any]:
    """`values` converted to plain types and checked; generators are read once, here.

    Raises:
        OptionError: as `make`.
    """
    made = make(kind, values)
    return {name: getattr(made, name) for name in values}
