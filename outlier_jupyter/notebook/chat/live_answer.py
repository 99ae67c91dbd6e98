"""The live view of the answer that is being generated, for a chat with `watch` on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ...engine.engine import Engine
from ...events import Sink
from ...runs.run import Run
from ..live.show import NextRunFrames, make_view
from .branching import branch_from_view

if TYPE_CHECKING:
    from .chat import Chat


class LiveAnswer:
    """Opens a view for each answer in place of the one before, and finishes it."""

    def __init__(self, chat: Chat, engine: Engine, on_stop: Callable[[], object]) -> None:
        self._chat, self._engine, self._on_stop = chat, engine, on_stop
        self._frames: NextRunFrames | None = None

    def open(self, question: str) -> Sink | None:
        """Open a view, if `watch` is on; return its subscriber."""
        if not self._chat.watch:
            return None
        view = make_view(self._engine, question, on_stop=self._on_stop, kernel_id="")
        self._frames = NextRunFrames(self._engine, view.push)
        previous, self._chat.live = self._chat.live, view
        if previous is not None:
            previous.close()
        return self._frames

    def finish(self, run: Run | None, number: int) -> None:
        """Show the last frame of the run that ended, or failed without one; `number` is its own."""
        frames, self._frames = self._frames, None
        if frames is not None and self._chat.live is not None:
            reason = run.finish_reason if run is not None else "error"
            self._chat.live.answer_from(run)
            self._chat.live.finish(reason, frames.last_frame(run))
            self._chat.live.on_branch = partial(branch_from_view, self._chat, number)
