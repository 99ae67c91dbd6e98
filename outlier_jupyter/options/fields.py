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
from ..values import (
    boolean,
    integer,
    is_whole,
    items,
    natural,
    number,
    refused,
    text,
    texts,
    within,
)


def option(default: Any, help: str | Callable[[], str], **rules: Any) -> Any:
    """A dataclass field with its help text and its rules.

    Args:
        help: a text, or a function that makes it, as the list of policies can grow.
        rules: bounds `low`, `above` and `high`; `choices`, values or a function that gives them;
            `words`, texts allowed beside the field's type; `spell`, a function that replaces the
            type's conversion in `CONVERTERS`; `escapes`, whether a flag takes backslash escapes;
            `python_only`, whether it has no flag; `metavar`, what a flag takes, as a text.
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


def host_names(name: str, value: Any) -> tuple[str, ...]:
    """Host names as texts, from texts with commas or from a number of processes on this machine.

    Raises:
        OptionError: `value` is neither.
    """
    if is_whole(value):
        value = str(natural(name, value))
    found = [part.strip() for each in texts(name, value) for part in each.split(",")]
    if len(found) == 1 and found[0].isdecimal() and len(found[0]) < 4:
        return ("localhost",) * int(found[0])
    return tuple(part for part in found if part)


def token_names(name: str, value: Any) -> tuple[str, ...]:
    """Tokens as texts: an id as its digits, others as they are.

    Raises:
        OptionError: `value` is no id, text, or list of them.
    """
    if value is None or isinstance(value, str):
        return texts(name, value)
    wanted = "a token's id or text, or several in a list"
    if is_whole(value):
        return (str(natural(name, value)),)
    return texts(name, [_token(name, each) for each in items(name, value, wanted)])


def token_biases(name: str, value: Any) -> tuple[str, ...]:
    """Biases as texts: "42=-5.0" for an item {42: -5.0} of a mapping.

    Raises:
        OptionError: `value` is no text, list of texts or mapping, or has no number.
    """
    if isinstance(value, Mapping):
        found = texts(name, [f"{_token(name, k)}={number(name, v)!r}" for k, v in value.items()])
    else:
        found = texts(name, value)
    for each in found:
        bias_of(name, each)
    return found


def bias_of(name: str, each: str) -> tuple[str, float]:
    """The token and the number of a text of `token_biases`.

    Raises:
        OptionError: it is not TOKEN=NUMBER.
    """
    token, equals, bias = each.rpartition("=")
    try:
        if token and equals:
            return token, float(number(name, float(bias)))
    except ValueError:
        pass
    raise refused(name, each, "TOKEN=NUMBER, such as 42=-5, or {42: -5.0} in Python")


def callables(name: str, value: Any) -> tuple[Callable[..., Any], ...]:
    """One function, or the functions in a list; none for None.

    Raises:
        OptionError: `value` or one of its items cannot be called.
    """
    wanted = "a function of (tokens, logits), or several in a list"
    if value is None:
        return ()
    found = [value] if callable(value) else items(name, value, wanted)
    for each in found:
        if not callable(each) or isinstance(each, type):
            raise refused(name, each, wanted)
    return tuple(found)


def _token(name: str, value: Any) -> Any:
    return value if isinstance(value, str) else str(natural(name, value))


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
