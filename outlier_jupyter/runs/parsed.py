"""The value of an answer that followed a schema."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import OptionError, brief
from ..options.schema import REGEX, Schema, schema_of


def parsed(answer: str, schema: Schema | str | None, reason: str) -> Any:
    """The value: of JSON its objects, or the Pydantic model's instance; else the text.

    Args:
        schema: as in the run's options or in its trace.
        reason: why the run ended.

    Raises:
        OptionError: there was no schema, or the answer is not whole or not valid.
    """
    if not schema:
        raise OptionError("this run had no schema, so its answer has no value: read run.text")
    schema = schema_of("schema", schema)
    hint = "it was cut off; raise max_tokens" if reason != "stop" else "read run.answer"
    if schema.kind == REGEX:
        if reason == "stop" or re.fullmatch(schema.text, answer):
            return answer
        raise OptionError(f"the answer does not match the schema's expression: {hint}")
    try:
        value = json.loads(answer)
    except ValueError as error:
        raise OptionError(f"the answer is not whole JSON ({brief(error, 60)}): {hint}") from None
    if schema.model is None:
        return value
    try:
        return schema.model.model_validate(value)
    except Exception as error:  # Pydantic's, or of a validator of the user's own
        raise OptionError(
            f"the answer is no {schema.model.__name__} ({brief(error)}): its own checks want more "
            "than its schema says"
        ) from error
