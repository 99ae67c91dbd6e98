"""`%outlier status`: show the loaded model."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from math import isnan
from typing import Any

from ...aliases import with_old_keys
from ...engine.status import Status
from ...trace.measures import Summary
from .command import Command, Session
from .parsing import add_json


def as_json(record: Status | Summary) -> str:
    """Convert a record to JSON; NaN (not counted) becomes null."""
    values = with_old_keys(type(record), asdict(record))
    bare = {k: None if isinstance(v, float) and isnan(v) else v for k, v in values.items()}
    return dumps(bare)


def write_status(session: Session, status: Status, json: bool) -> None:
    """Print a status as text or JSON."""
    session.write(f"{as_json(status) if json else status}\n")


def _run(session: Session, args: dict[str, Any]) -> Status | None:
    status = session.loaded().status()
    if not args.get("json"):
        return status
    write_status(session, status, True)
    return None


COMMAND = Command(
    "status",
    "which model is loaded, how full its cache is, how its last run went",
    _run,
    lambda parser: add_json(parser, "the status"),
    call="`engine.status()`",
    group="watch",
)
