"""A run for async code: it decodes on its own thread, so the event loop stays free."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ..runs.run import Interrupted, Run
from .run_lock import POLL_S

if TYPE_CHECKING:
    from .engine import Engine
    from .prompts import Prompt


class AsyncRun:
    """One run of `engine`; it can be stopped while it waits for another run, too."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._stopped = engine, threading.Event()
        self._thread: int | None = None

    async def run(self, prompt: Prompt, options: dict[str, Any]) -> Run:
        """The finished run, or the partial run if it was stopped; cancelling stops it."""
        with ThreadPoolExecutor(1, thread_name_prefix="outlier-async") as thread:
            work = asyncio.get_running_loop().run_in_executor(thread, self._run, prompt, options)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                while not work.done():
                    self._stop()
                    await asyncio.wait([work], timeout=POLL_S)
                raise

    def _run(self, prompt: Prompt, options: dict[str, Any]) -> Run:
        self._thread = threading.get_ident()
        with self._engine.run_lock.ends_by_itself(self._stopped.is_set):
            try:
                return self._engine.generate(prompt, **options)
            except Interrupted as stop:
                return stop.run

    def _stop(self) -> None:
        self._stopped.set()
        if self._engine.run_lock.owned_by(self._thread):
            self._engine.stop()
