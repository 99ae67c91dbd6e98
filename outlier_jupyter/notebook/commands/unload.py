"""`%outlier unload`: close the engine and free its memory."""

from __future__ import annotations

import gc
from typing import Any

from .command import Command, Session


def _run(session: Session, args: dict[str, Any]) -> None:
    if session.engine is not None:
        session.engine.close()
        session.engine = None
        gc.collect()  # models contain reference cycles


COMMAND = Command(
    "unload",
    "close the engine and free its memory",
    _run,
    call="`engine.close()`",
    group="start",
)
