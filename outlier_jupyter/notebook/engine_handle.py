"""What `%outlier load` returns: the engine, by a reference that does not keep it.

A notebook keeps what its cells returned, in `Out` and in `_`, `__` and `___`. An engine there would
live on after `%outlier unload`. Who wants to keep it says so, with `-o NAME`.
"""

from __future__ import annotations

import traceback
import weakref
from typing import Any

from ..engine.engine import Engine
from ..errors import EngineClosed


class Loaded:
    """Stands for an engine as long as somebody else has it, and can be used in its place."""

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)
        self._model = engine.info.model

    @property
    def engine(self) -> Engine:
        """The engine itself.

        Raises:
            EngineClosed: nobody has it any more.
        """
        engine = self._engine()
        if engine is None:
            raise EngineClosed(f"the engine of {self._model!r} was unloaded: load the model again")
        return engine

    @property  # type: ignore[misc]  # so that `isinstance` takes it for what it stands for
    def __class__(self) -> type:
        return Engine

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and self._engine() is None:  # a display asks for all it knows
            raise AttributeError(name)
        return getattr(self.engine, name)

    def __enter__(self) -> Engine:
        return self.engine.__enter__()

    def __exit__(self, *raised: object) -> None:
        self.engine.close()

    def __repr__(self) -> str:
        engine = self._engine()
        return f"Engine({self._model!r}, unloaded)" if engine is None else repr(engine)


def engine_of(given: Any) -> Engine:
    """The engine that was given, by itself or as what stands for it."""
    engine: Engine = given.engine if issubclass(type(given), Loaded) else given
    return engine


def forget_frames(error: BaseException | None) -> None:
    """Empty the locals of all frames that an error and those behind it have passed through.

    IPython keeps the last traceback for `%debug`, and with it what those frames held: arrays of a
    run that failed, a model half loaded.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
