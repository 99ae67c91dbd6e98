"""The live view's header says during a run that the cache was made smaller, and as large again."""

from __future__ import annotations

from ...engine.engine import Engine
from ...events import Event, Resized
from .widget import LiveView


class MemoryNote:
    """A subscriber that updates the header of `view` when the cache of `engine` changes size."""

    KINDS: tuple[type[Event], ...] = (Resized,)
    """The events it subscribes to."""

    def __init__(self, view: LiveView, engine: Engine) -> None:
        self._view, self._engine = view, engine

    def __call__(self, event: Event) -> None:
        """Receive one event."""
        note = self._engine.status().memory_note
        self._view.info = {**self._view.info, "memory_note": note}
