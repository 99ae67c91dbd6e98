"""`%outlier memory`: show the memory use of this process."""

from __future__ import annotations

from json import dumps
from typing import Any

from .command import Command, Session
from .parsing import add_json


def _run(session: Session, args: dict[str, Any]) -> None:
    use = session.loaded().memory()
    session.write(f"{dumps(use.to_dict()) if args.get('json') else use}\n")


COMMAND = Command(
    "memory",
    "show the memory use of this process by category",
    _run,
    lambda parser: add_json(parser, "the numbers, in bytes"),
    call="`engine.memory()`",
    group="watch",
)
