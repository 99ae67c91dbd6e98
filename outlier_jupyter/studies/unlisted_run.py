"""A run that a study makes for itself: nobody asked for its text, so it is no one's last run."""

from __future__ import annotations

from typing import Any

from ..engine.engine import Engine
from ..engine.prompts import Prompt
from ..runs.run import Run


def own_run(engine: Engine, prompt: Prompt, **options: Any) -> Run:
    """`engine.generate`; whatever comes of it, `engine.last_run` stays what it was before."""
    before = engine.last_run
    try:
        return engine.generate(prompt, **options)
    finally:
        engine.last_run = before
