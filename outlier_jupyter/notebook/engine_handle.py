"""`%outlier load` returns an `EngineHandle`: a weak reference to the engine.

A notebook keeps the results of its cells in `Out`, `_`, `__` and `___`. An engine there would
survive `%outlier unload`. To keep the engine itself, use `-o NAME`.
"""

from __future__ import annotations

import traceback
import weakref
from typing import Any

from ..display import draw
from ..engine.engine import Engine
from ..errors import EngineClosed
from ..formatting import answer_text


class EngineHandle:
    """Forwards to an engine while other references keep it alive."""

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)
        self._model = engine.info.model

    @property
    def engine(self) -> Engine:
        """The engine itself.

        Raises:
            EngineClosed: the engine was unloaded.
        """
        engine = self._engine()
        if engine is None:
            raise EngineClosed(f"the engine of {self._model!r} was unloaded: load the model again")
        return engine

    @property  # type: ignore[misc]  # so that isinstance(handle, Engine) is true
    def __class__(self) -> type:
        return Engine

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and self._engine() is None:  # IPython's display probes many names
            raise AttributeError(name)
        return getattr(self.engine, name)

    def __enter__(self) -> Engine:
        return self.engine.__enter__()

    def __exit__(self, *raised: object) -> None:
        self.engine.close()

    def __repr__(self) -> str:
        engine = self._engine()
        if engine is None:
            return f"Engine({self._model!r}, unloaded)"
        return repr(engine) if engine.closed else answer_text(engine.status().ready)

    def _repr_html_(self) -> str | None:
        engine = self._engine()
        if engine is None or engine.closed:
            return None  # the text is shown
        html: str = draw("Status.ready", engine.status())
        return html


def engine_of(value: Any) -> Engine:
    """Resolve an engine or a handle to the engine."""
    engine: Engine = value.engine if issubclass(type(value), EngineHandle) else value
    return engine


def forget_frames(error: BaseException | None) -> None:
    """Clear the local variables of all frames in the tracebacks of an error and its causes.

    IPython keeps the last traceback for `%debug`. Its frames would keep the arrays of a failed run,
    or a half-loaded model, in memory.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
