"""Where a run came from, and how to go on from one of its tokens with another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

from ..errors import OptionError
from ..options import GenerateOptions

if TYPE_CHECKING:
    from .run import Run

SHOWN = 24
"""The most characters of a token's text in a sentence."""


@dataclass(frozen=True)
class Branch:
    """Where a run left another one.

    Attributes:
        token: the number of the other's token in whose place another was chosen, from 1.
        chosen: the id chosen; `text`, its text.
    """

    token: int
    chosen: int
    text: str

    def __str__(self) -> str:
        return f"branched at token {self.token:,} with {quoted(self.text) or self.chosen}"


@dataclass(frozen=True)
class Origin:
    """A run's engine, options, and its prompt as the engine encoded it.

    The engine is referenced weakly, so that a run keeps no model in memory.
    """

    engine: ref[Any]
    options: GenerateOptions
    encoded: Any

    def __reduce__(self) -> Any:
        return type(None), ()  # a copy, or a run in another process, has no engine


def quoted(text: str) -> str:
    """A token's text in a sentence; "" for none."""
    shown = text.replace("\n", "↵").replace("\t", "⇥")
    return f"“{shown[:SHOWN]}{'…' if len(shown) > SHOWN else ''}”" if shown else ""


def engine_of(run: Run) -> Any:
    """The engine that made a run.

    Raises:
        OptionError: the run was loaded from a file or copied, or its engine is gone.
    """
    engine = run.origin.engine() if run.origin is not None else None
    if engine is None:
        raise OptionError(
            "this run has no engine to go on with, as it was loaded from a file or its model is "
            "gone: load the model, and call engine.branch(run, …)"
        )
    return engine
