"""`%outlier load`: a model becomes the session's engine."""

from __future__ import annotations

import argparse
import gc
import sys
from typing import Any

from ...engine.engine import Engine
from ...engine.load import load
from ...errors import OutlierError
from ...options import LoadOptions
from ..engine_handle import Loaded
from .command import MODEL, Command, Session
from .parsing import add_fields, add_output


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"load a model: {MODEL}")
    add_output(parser, "Engine")
    add_fields(parser, LoadOptions)


def _run(session: Session, given: dict[str, Any]) -> Loaded:
    output = given.pop("output", None)
    before = session.engine if session.engine is not None and not session.engine.closed else None
    try:
        options = session.defaults(LoadOptions) | given
        engine = load(options.pop("model"), replacing=before, **options)
    except (OutlierError, KeyboardInterrupt) as error:
        _tell_what_is_left(session, error, before)
        raise
    finally:
        gc.collect()  # a model is made of cycles
    session.engine = engine
    session.store(output, engine)
    return Loaded(engine)


def _tell_what_is_left(session: Session, error: BaseException, before: Engine | None) -> None:
    """Have a failed load say what is loaded now."""
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
)
