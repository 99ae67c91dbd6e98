"""What an answer must be: a JSON schema, a Pydantic model's, or a regular expression."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OptionError, shown
from ..values import refused

JSON, REGEX = "json", "regex"
WANTED = "a JSON schema, a Pydantic model, a regular expression, or the path of a schema's file"


@dataclass(frozen=True)
class Schema:
    """The form of an answer.

    Attributes:
        kind: `json` or `regex`.
        text: the schema as JSON, or the expression.
        model: the Pydantic model that `Run.parsed` makes; None for plain values.
    """

    kind: str
    text: str
    model: Any = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.kind}:{self.text}"

    @property
    def words(self) -> str:
        """The kind of constraint in words."""
        return "a JSON schema" if self.kind == JSON else "a regular expression"


def schema_of(name: str, value: Any) -> Schema:
    """A schema from what users give: see `WANTED`; `json:…` and `regex:…` say which a text is.

    Raises:
        OptionError: `value` is none of them, or the file cannot be read.
    """
    if isinstance(value, Schema):
        return value
    if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
        return _of_pattern(name, value)
    describe = getattr(value, "model_json_schema", None)
    if isinstance(value, type) and callable(describe):
        return Schema(JSON, _written(name, describe()), value)
    if isinstance(value, Mapping):
        return Schema(JSON, _written(name, dict(value)))
    if isinstance(value, str) and value:
        return _of_text(name, value)
    raise refused(name, value, WANTED)


def _of_pattern(name: str, pattern: re.Pattern[str]) -> Schema:
    if pattern.flags & ~(re.UNICODE | re.IGNORECASE):
        raise refused(name, pattern, "an expression without flags other than IGNORECASE")
    begin = "(?i)" if pattern.flags & re.IGNORECASE else ""
    return Schema(REGEX, begin + pattern.pattern)


def _of_text(name: str, value: str) -> Schema:
    kind, colon, rest = value.partition(":")
    if colon and kind == REGEX:
        return Schema(REGEX, rest)
    text = rest if colon and kind == JSON else value
    if text.endswith(".json"):
        try:
            text = Path(text).expanduser().read_text("utf-8")
        except (OSError, ValueError) as error:
            raise OptionError(
                f"{name}={shown(value)} cannot be read ({type(error).__name__}): give the path of "
                "a file with a JSON schema"
            ) from None
    elif not text.lstrip().startswith("{"):
        return Schema(REGEX, value)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise refused(name, value, "a JSON schema that is JSON") from None
    if not isinstance(found, dict):
        raise refused(name, value, "a JSON schema, which is an object")
    return Schema(JSON, json.dumps(found))


def _written(name: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        raise refused(name, value, "a JSON schema of JSON's types") from None
