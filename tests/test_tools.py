"""Tools are described from signatures and docstrings; what lacks something is one sentence."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from outlier_jupyter.errors import OptionError
from outlier_jupyter.tools import Tool, schemas_of, tools_of


def weather(city: str, days: int = 1) -> str:
    """The weather of the next days.

    Args:
        city: where, as "Paris, France"
        days: how many, from today
    """
    return f"{city}: {days} days of rain"


READY = {
    "name": "add",
    "parameters": {"properties": {"a": {"type": "number"}}, "required": ["a"]},
}


def without_docstring(city: str) -> str:
    return city


def without_hint(city) -> str:
    """The weather.

    Args:
        city: where
    """
    return city


def without_description(city: str, days: int) -> str:
    """The weather.

    Args:
        city: where
    """
    return city


def of_many(*cities: str) -> str:
    """The weather.

    Args:
        cities: where
    """
    return ""


def of_a_class(place: pytest.Item) -> str:
    """The weather.

    Args:
        place: where
    """
    return ""


def test_a_function_is_described_by_its_signature_and_docstring() -> None:
    """The schema is transformers', and the function is called by its own name."""
    (tool,) = tools_of("tools", [weather])
    inner = tool.schema["function"]
    assert (tool.name, tool.function) == ("weather", weather) and inner["name"] == "weather"
    assert inner["description"] == "The weather of the next days."
    assert inner["parameters"]["properties"]["days"] == {
        "type": "integer", "description": "how many, from today",
    }  # fmt: skip
    assert inner["parameters"]["required"] == ["city"]


@pytest.mark.parametrize("order", ["schema first", "function first", "whole"])
def test_a_ready_schema_is_taken_with_its_function(order: str) -> None:
    """In either order, in OpenAI's form or the part of it below "function"; a copy is kept."""
    ready: dict[str, Any] = {"name": "add", "parameters": {"properties": {"a": {}}}}
    given = {"type": "function", "function": ready} if order == "whole" else ready
    pair = (weather, given) if order == "function first" else (given, weather)
    (tool,) = tools_of("tools", [pair])
    ready["parameters"]["properties"]["b"] = {}
    assert tool.function is weather and tool.schema == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "",
            "parameters": {"type": "object", "properties": {"a": {}}},
        },
    }


def test_schemas_alone_are_enough_for_a_prompt() -> None:
    """`generate` needs no function; what was described before passes unchanged, None is none."""
    schemas = schemas_of("tools", [weather, READY])
    assert [each["function"]["name"] for each in schemas] == ["weather", "add"]
    assert schemas_of("tools", schemas) == schemas and schemas_of("tools", None) == ()
    assert tools_of("tools", [Tool("add", schemas[1])])[0].function is None


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ([without_docstring], "'without_docstring' has no docstring"),
        ([without_hint], "argument 'city' of the tool 'without_hint' has no type hint"),
        ([without_description], "'without_description' does not describe its argument 'days'"),
        ([of_many], r"'of_many' takes \*cities"),
        ([of_a_class], "'of_a_class' cannot be described"),
        ([lambda city: city], "has no name that a model can call"),
        ([functools.partial(weather, "Rome")], "has no name that a model can call"),
        ([weather, weather], "two tools are named 'weather'"),
        ([dict], "is no tool"),
        (["weather"], "is no tool"),
        ([(weather, weather)], "is no tool"),
        ([{"parameters": {}}], "is no tool's schema"),
        ([{"function": 3}], "is no tool's schema"),
        ([{"name": "two words"}], "is no tool's schema"),
        ([{"name": "f", "parameters": [1]}], "parameters of the tool 'f' are"),
        ([{"name": "f", "parameters": {"properties": 3}}], "parameters of the tool 'f' are"),
        ([{"name": "f", "parameters": {"default": {1, 2}}}], "schema of the tool 'f' is not JSON"),
        ([{"name": "f", "x": float("nan")}], "schema of the tool 'f' is not JSON"),
        (weather, "give a list of functions"),
        (READY, "give a list of functions"),
        ("weather", "give a list of functions"),
        (3, "give a list of functions"),
    ],
)
def test_what_cannot_be_described_is_one_sentence(tools: Any, says: str) -> None:
    """It names the option, the function and what it lacks, in at most 300 characters."""
    with pytest.raises(OptionError, match=says) as refused:
        tools_of("tools", tools)
    message = str(refused.value)
    assert message.startswith("tools") and len(message) <= 300 and "\n" not in message
