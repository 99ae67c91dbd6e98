"""The fields of options: how one is declared, converted to a plain value and checked.

A field has its default, its help text and its rules in one place; this module follows the rules,
and knows no option by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import Field, field, fields
from typing import Any

from ..errors import OptionError, shown
from ..values import boolean, integer, items, number, text, texts, within


def option(default: Any, help: str | Callable[[], str], **rules: Any) -> Any:
    """A dataclass field with its help text and its rules.

    Args:
        help: a text, or a function that makes it, as the list of policies can grow.
        rules: bounds `low`, `above` and `high`; `choices`, values or a function that gives them;
            `words`, texts allowed beside the field's type; `spell`, a function that replaces the
            type's conversion in `CONVERTERS`; `escapes`, whether a flag takes backslash escapes;
            `python_only`, whether it has no flag.
    """
    return field(default=default, metadata={"help": help, **rules})


def help_of(spec: Field[Any]) -> str:
    """The help text of an option."""
    text = spec.metadata["help"]
    return str(text() if callable(text) else text)


def choices_of(spec: Field[Any]) -> tuple[Any, ...]:
    """The allowed values of an option; empty where any value of its type is allowed."""
    choices = spec.metadata.get("choices", ())
    return tuple(choices() if callable(choices) else choices)


def expert_texts(name: str, value: Any) -> tuple[str, ...]:
    """Experts as texts: "12:37" for a pair (12, 37), "12:37=2.0" for an item of a mapping.

    Texts pass unchanged and are checked against the model later.

    Raises:
        OptionError: `value` is no text, pair, list of them or mapping.
    """
    if value is None or isinstance(value, str):
        return texts(name, value)
    if isinstance(value, Mapping):
        return texts(name, [f"{_expert(name, k)}={number(name, v)!r}" for k, v in value.items()])
    wanted = "LAYER:EXPERT, such as 12:37, or several in a list"
    return texts(name, [_expert(name, item) for item in items(name, value, wanted)])


def _expert(name: str, item: Any) -> Any:
    if isinstance(item, tuple | list) and len(item) == 2:
        return ":".join(str(integer(name, part)) for part in item)
    return item


def settle(options: Any) -> None:
    """Convert every field of the dataclass `options` to a plain value, and check it by its rules.

    Raises:
        OptionError: names the option, its value and what is allowed.
    """
    for spec in fields(options):
        value = getattr(options, spec.name)
        if value is None and "None" in str(spec.type):
            continue
        if isinstance(value, str) and value in spec.metadata.get("words", ()):
            continue
        plain = _plain(spec, value)
        _check_rules(spec, plain)
        object.__setattr__(options, spec.name, plain)  # the dataclass is frozen


CONVERTERS: dict[str, Callable[[str, Any], Any]] = {
    "int": integer,
    "float": number,
    "str": text,
    "bool": boolean,
    "tuple[str, ...]": texts,
}
"""The conversion of each field type, for fields without a `spell` of their own."""


def _plain(spec: Field[Any], value: object) -> Any:
    convert = spec.metadata.get("spell") or CONVERTERS[str(spec.type).split(" |")[0]]
    try:
        return convert(spec.name, value)
    except OptionError as error:
        words = "".join(f" or {word!r}" for word in spec.metadata.get("words", ()))
        raise OptionError(f"{error}{words}") from None


def _check_rules(spec: Field[Any], value: Any) -> None:
    rules = spec.metadata
    if "choices" in rules and value not in choices_of(spec):
        choices = [str(choice) for choice in choices_of(spec)]
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f"; did you mean {near[0]!r}?" if near and isinstance(value, str) else ""
        raise OptionError(
            f"{spec.name}={shown(value)} is unknown: choose {', '.join(choices)}{hint}"
        )
    if "low" in rules or "above" in rules or "high" in rules:
        within(spec.name, value, rules.get("low"), rules.get("high"), rules.get("above"))
