"""Reads the tool calls in a model's text, in the syntax that its family was trained on.

`segments.py` finds where calls begin and end. mlx-lm has a parser for each family; gpt-oss, whose
calls are messages in a channel, has a small one here. What a model writes may be malformed in any
way, so this module is the border to the parsers: nothing that they raise passes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import OptionError, brief
from ..trace.segments import TOOL_CALL, Span
from .dialects import HARMONY, dialect_of

Schema = dict[str, Any]

DEEPEST = 40
"""The most levels of lists and objects in arguments: copies and pages follow each level."""
NO_PARSER = "no parser reads this model's calls"
CALLED = re.compile(r"\s*([\w.-]+)")
"""The function's name, with which gpt-oss's call begins."""


@dataclass(frozen=True)
class FoundCall:
    """A tool call in a model's text.

    Attributes:
        text: as the model wrote it, without the markers around it.
        name: the tool's; "" if it cannot be read.
        arguments: by name, as JSON values.
        id: the model's own id for the call; "" if it gave none.
        error: why it cannot be run, or "".
    """

    text: str
    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = ""
    error: str = ""


def calls_tools(tokenizer: Any) -> bool:
    """Whether tool calls in this model's text can be read."""
    return bool(tokenizer.has_tool_calling) or _speaks_harmony(tokenizer)


def check_calls(tokenizer: Any) -> None:
    """Raises OptionError: no parser reads this model's tool calls."""
    if not calls_tools(tokenizer):
        raise OptionError(
            "mlx-lm has no parser for this model's tool calls, so it cannot be given tools: choose "
            "a model with one, or name its parser as tool_parser_type in tokenizer_config.json"
        )


def find_calls(
    tokenizer: Any, text: str, spans: Iterable[Span], schemas: Sequence[Schema], whole: bool = True
) -> list[FoundCall]:
    """The tool calls in the text of one answer, in order.

    Args:
        text, spans: of the run.
        schemas: of the tools that the model was offered.
        whole: False if the text was cut off or stopped: a call that did not end is then no call.
    """
    known = calls_tools(tokenizer)
    parse = tokenizer.tool_parser if tokenizer.has_tool_calling else _parsed_harmony
    found: list[FoundCall] = []
    for kind, begin, end in spans:
        if kind != TOOL_CALL:
            continue
        call, ended = text[begin:end], text[end:].strip()
        if not known:
            found.append(FoundCall(call, _named_in(call, schemas), error=NO_PARSER))
        elif ended or whole:
            found += _read(parse, call, schemas)
        else:
            found.append(FoundCall(call, _named_in(call, schemas), error="it was cut off"))
    return found


def _speaks_harmony(tokenizer: Any) -> bool:
    """Whether the model writes calls as gpt-oss does, in channels."""
    return dialect_of(tokenizer).response_transitions is HARMONY


def _parsed_harmony(text: str, _: object = None) -> dict[str, Any]:
    """`get_weather <|constrain|>json<|message|>{…}`."""
    header, _, body = text.partition("<|message|>")
    name = CALLED.match(header)
    return {"name": name[1] if name else "", "arguments": json.loads(body)}


def _read(
    parse: Callable[[str, Any], Any], text: str, schemas: Sequence[Schema]
) -> Iterator[FoundCall]:
    """The calls in one part of a text, at least one."""
    try:
        parsed = parse(text, list(schemas))
    except Exception as error:  # a parser may raise anything
        yield FoundCall(text, _named_in(text, schemas), error=f"{brief(error)}")
        return
    calls = parsed if isinstance(parsed, list) else [parsed]
    for call in calls or [None]:
        yield _checked(call, text, schemas)


def _checked(call: Any, text: str, schemas: Sequence[Schema]) -> FoundCall:
    """A parser's result, or what is wrong with it."""
    name = call.get("name") if isinstance(call, dict) else None
    if not isinstance(name, str) or not name:
        return FoundCall(text, _named_in(text, schemas), error="it names no function")
    try:
        arguments = _plain(call.get("arguments") or {})
    except (TypeError, ValueError, RecursionError) as error:
        return FoundCall(text, name, error=f"its arguments are not JSON ({brief(error)})")
    if not isinstance(arguments, dict):
        return FoundCall(text, name, error="its arguments are no JSON object")
    own = call.get("id")
    own = own if isinstance(own, str) else ""
    return FoundCall(text, name, arguments, own, _misuse(name, arguments, schemas))


def _plain(value: Any) -> Any:
    """Arguments as JSON has them; a text is read as JSON, as some parsers leave it."""
    if isinstance(value, str):
        value = json.loads(value)
    if _depth(value) > DEEPEST:
        raise ValueError(f"more than {DEEPEST} levels of lists and objects")
    plain = json.dumps(value, allow_nan=False)
    # Half a surrogate pair is no character, and no page or file can take it.
    return json.loads(json.dumps(json.loads(plain), ensure_ascii=False).encode("utf-8", "replace"))


def _depth(value: Any) -> int:
    """The levels of lists and objects in `value`."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        inner = [each.values() if isinstance(each, dict) else each for each in level
                 if isinstance(each, dict | list | tuple)]  # fmt: skip
        level, depth = [item for each in inner for item in each], depth + bool(inner)
    return depth


def _misuse(name: str, arguments: dict[str, Any], schemas: Sequence[Schema]) -> str:
    """What is wrong with a call of this tool with these arguments, or ""."""
    functions = {schema["function"]["name"]: schema["function"] for schema in schemas}
    if name not in functions:
        return f"there is no tool {name[:60]!r}: there are {', '.join(functions) or 'none'}"
    parameters = functions[name].get("parameters") or {}
    missing = [each for each in parameters.get("required", ()) if each not in arguments]
    return f"it lacks the argument {missing[0]!r}" if missing else ""


def _named_in(text: str, schemas: Sequence[Schema]) -> str:
    """The tool that a call which cannot be read seems to mean, or ""."""
    names = [schema["function"]["name"] for schema in schemas]
    return next((name for name in sorted(names, key=len, reverse=True) if name in text), "")
