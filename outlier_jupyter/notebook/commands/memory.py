"""`%outlier memory`: where the memory of this process is."""

from __future__ import annotations

from json import dumps
from typing import Any

from .command import Command, Session
from .parsing import add_json


def _run(session: Session, given: dict[str, Any]) -> None:
    use = session.loaded().memory()
    session.write(f"{dumps(use.to_dict()) if given.get('json') else use}\n")


COMMAND = Command(
    "memory",
    "where the memory of this process is",
    _run,
    lambda parser: add_json(parser, "the numbers, in bytes"),
    call="`engine.memory()`",
)
