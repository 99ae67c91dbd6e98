"""A run that a study makes for itself, which does not become `engine.last_run`."""

from __future__ import annotations

from typing import Any

from ..engine.engine import Engine
from ..engine.prompts import Prompt
from ..runs.run import Run


def own_run(engine: Engine, prompt: Prompt, **options: Any) -> Run:
    """`engine.generate`, with `engine.last_run` restored afterwards."""
    before = engine.last_run
    try:
        return engine.generate(prompt, **options)
    finally:
        engine.last_run = before
