"""`%outlier resize`: change the cache size between two runs."""

from __future__ import annotations

import argparse
from typing import Any

from ...options import LoadOptions
from .command import Command, Session
from .parsing import add_fields, add_json
from .status import write_status


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_fields(parser, LoadOptions, ("cache_gb", "cache_experts", "force"), defaults=False)
    add_json(parser, "the status")


def _run(session: Session, args: dict[str, Any]) -> None:
    json = args.pop("json", False)
    write_status(session, session.loaded().resize(**args), json)


COMMAND = Command(
    "resize",
    "change the cache's size; recently used experts stay in RAM",
    _run,
    _arguments,
    call="`engine.resize(cache_gb=…)`",
    group="start",
)
