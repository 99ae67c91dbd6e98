"""`%outlier plan`: estimate size and speed of a model before it is loaded."""

from __future__ import annotations

import argparse
from functools import partial
from json import dumps
from typing import Any

from ...engine.plan import Plan, plan
from ...errors import ReadFailed
from ...options import LoadOptions
from ...system.machine_speed import kept_speed
from .command import MODEL, Command, Session
from .parsing import add_fields, add_json, add_output

OPTIONS = ("ram_gb", "kernels", "kept_kv_gb", "revision", "trust_remote_code")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"{MODEL}; needs no download")
    add_output(parser, "Plan")
    add_json(parser, "the plan")
    parser.add_argument(
        "--measure", action="store_true", default=None,
        help="measure this machine's memory and disk again, for the forecast of tokens/s",
    )  # fmt: skip
    add_fields(parser, LoadOptions, OPTIONS)


def _run(session: Session, args: dict[str, Any]) -> Plan | None:
    output, json = (args.pop(name, None) for name in ("output", "json"))
    defaults = session.defaults(LoadOptions)
    options = {name: defaults[name] for name in OPTIONS if name in defaults} | args
    engine = session.engine if session.engine is not None and not session.engine.closed else None
    wanted = bool(options.pop("measure", False))
    make = partial(plan, options.pop("model"), replacing=engine, **options)
    try:
        found = make(measure=wanted or kept_speed() is None)
    except ReadFailed:
        if wanted:
            raise
        found = make()  # without a forecast, where the disk cannot be measured
    session.store(output, found)
    if json:
        session.write(f"{dumps(found.to_dict())}\n")
        return None
    return found


COMMAND = Command(
    "plan",
    "size of a model, and the cache size to choose, before loading it",
    _run,
    _arguments,
    call="`outlier_jupyter.plan(model, …)`",
    terminal=True,
    group="start",
)
