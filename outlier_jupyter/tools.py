"""Functions that a model may call, described as JSON schemas.

transformers' `get_json_schema` reads a function's signature and docstring; its refusals become one
sentence that names the function and what it lacks. Ready schemas are accepted as well. This module
runs no function, and knows no model.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import OptionError, brief, shown
from .values import items

WANTED = "functions with type hints and docstrings, or pairs of a JSON schema and a function"
NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)
"""What models write as a function's name."""
BY_POSITION = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
)
"""Parameters that cannot be passed by a name of their own, as models pass all arguments."""


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Attributes:
        name: what the model calls it.
        schema: {"type": "function", "function": {name, description, parameters}}, as chat templates
            take it.
        function: called with the arguments by name; None if there is only a schema.
    """

    name: str
    schema: dict[str, Any]
    function: Callable[..., Any] | None = field(default=None, compare=False)


def tools_of(name: str, value: Any) -> tuple[Tool, ...]:
    """The tools in a list of functions, schemas, and pairs of both; none for None.

    Raises:
        OptionError: one cannot be described, two have the same name, or it is something else; the
            message begins with `name`.
    """
    if value is None:
        return ()
    if isinstance(value, Mapping) or callable(value):
        raise OptionError(f"{name}={shown(value)} cannot be used: give a list of {WANTED}")
    listed = items(name, value, f"a list of {WANTED}")
    try:
        found = tuple(map(_tool, listed))
    except OptionError as error:
        raise OptionError(f"{name}: {error}") from error
    names = [tool.name for tool in found]
    for each in names:
        if names.count(each) > 1:
            raise OptionError(f"{name}: two tools are named {each!r}: give each a name of its own")
    return found


def schemas_of(name: str, value: Any) -> tuple[dict[str, Any], ...]:
    """The schemas of these tools; raises as `tools_of`."""
    return tuple(tool.schema for tool in tools_of(name, value))


def _tool(value: Any) -> Tool:
    if isinstance(value, Tool):
        return value
    if isinstance(value, Mapping):
        return _ready(value, None)
    if isinstance(value, tuple | list) and len(value) == 2:
        schema, function = value if isinstance(value[0], Mapping) else reversed(value)
        if isinstance(schema, Mapping) and callable(function):
            return _ready(schema, function)
    if not callable(value) or isinstance(value, type):
        raise OptionError(f"{shown(value)} is no tool: give {WANTED}")
    return _described(value)


def _described(function: Callable[..., Any]) -> Tool:
    """A tool from a function's signature and docstring."""
    from transformers.utils import get_json_schema

    called = str(getattr(function, "__name__", ""))
    if not NAME.fullmatch(called):
        raise OptionError(
            f"{shown(function)} has no name that a model can call: give a function made with def, "
            "or a pair of a JSON schema and a function"
        )
    _check_signature(called, function)
    try:
        schema = get_json_schema(function)
    except Exception as error:  # also of the annotations' and the docstring's own making
        raise _undescribed(called, error) from error
    return _ready(schema, function)


def _check_signature(called: str, function: Callable[..., Any]) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise _undescribed(called, error) from error
    if not (inspect.getdoc(function) or "").strip():
        raise OptionError(
            f"the tool {called!r} has no docstring, from which the model learns what it does: "
            "write one, with a line for each argument under Args:"
        )
    for each in parameters:
        if each.kind in BY_POSITION:
            raise OptionError(
                f"the tool {called!r} takes {each}, and a model passes arguments by name: give it "
                "parameters with names of their own"
            )
        if each.annotation is each.empty:
            raise OptionError(
                f"the argument {each.name!r} of the tool {called!r} has no type hint, which "
                f"says what to pass: write {each.name}: str, int, float, bool, list or dict"
            )


def _undescribed(called: str, error: Exception) -> OptionError:
    """One sentence for what transformers says of a function that it cannot describe."""
    if lacking := re.search(r"no description for the argument '(\w+)'", str(error)):
        return OptionError(
            f"the docstring of the tool {called!r} does not describe its argument "
            f"{lacking[1]!r}: add {lacking[1]}: … under Args:"
        )
    return OptionError(
        f"the tool {called!r} cannot be described to a model ({brief(error)}): use simple type "
        "hints, or give a pair of a JSON schema and the function"
    )


def _ready(schema: Mapping[str, Any], function: Callable[..., Any] | None) -> Tool:
    """A tool from a schema in OpenAI's form, or the part of it below "function"."""
    inner = schema.get("function", schema)
    called = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(called, str) or not NAME.fullmatch(called):
        raise OptionError(
            f"{shown(schema)} is no tool's schema: give {{'name': …, 'description': …, "
            "'parameters': {'type': 'object', 'properties': {…}}}"
        )
    whole = {"description": "", "parameters": {}} | dict(inner)
    parameters = whole["parameters"] or {}
    if not isinstance(parameters, Mapping) or not isinstance(
        parameters.get("properties", {}), Mapping
    ):
        raise OptionError(
            f"the parameters of the tool {called!r} are {shown(parameters)}: give a JSON schema of "
            "type object, with properties"
        )
    whole["parameters"] = {"type": "object", "properties": {}} | dict(parameters)
    try:  # a copy of plain values, which later changes of the caller's do not reach
        plain = json.loads(json.dumps(whole, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(
            f"the schema of the tool {called!r} is not JSON ({brief(error)}): give plain values"
        ) from error
    return Tool(called, {"type": "function", "function": plain}, function)
