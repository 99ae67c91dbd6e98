"""`%outlier load`: load a model as the engine of this session."""

from __future__ import annotations

import argparse
import gc
import sys
from typing import Any

from ...engine.engine import Engine
from ...engine.load import load
from ...errors import OutlierError
from ...options import LoadOptions
from ..engine_handle import EngineHandle
from .command import MODEL, Command, Session
from .parsing import add_fields, add_output


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"the model: {MODEL}")
    add_output(parser, "Engine")
    add_fields(parser, LoadOptions)


def _run(session: Session, args: dict[str, Any]) -> EngineHandle:
    output = args.pop("output", None)
    before = session.engine if session.engine is not None and not session.engine.closed else None
    try:
        options = session.defaults(LoadOptions) | args
        engine = load(options.pop("model"), replacing=before, **options)
    except (OutlierError, KeyboardInterrupt) as error:
        _report_loaded(session, error, before)
        raise
    finally:
        gc.collect()  # models contain reference cycles
    session.engine = engine
    session.store(output, engine)
    return EngineHandle(engine)


def _report_loaded(session: Session, error: BaseException, before: Engine | None) -> None:
    """Add which model is loaded now to the message of a failed load."""
    if before is None:
        return
    left = f"{before.info.model} is still loaded"
    if before.closed:
        session.engine, left = None, "no model is loaded now"
    if isinstance(error, OutlierError):
        error.args = (f"{error} ({left})",)
    else:
        sys.stderr.write(f"The load was interrupted: {left}.\n")


COMMAND = Command(
    "load",
    f"load a model: {MODEL}",
    _run,
    _arguments,
    "Load a model with its experts on disk.",
    call="`engine = outlier_jupyter.load(model, …)`",
    group="start",
)
