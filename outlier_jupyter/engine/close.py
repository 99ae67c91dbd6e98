"""The end of an engine: a run under way is waited for, files are closed, memory is freed."""

from __future__ import annotations

import atexit
import gc
import os
from typing import TYPE_CHECKING
from weakref import WeakSet

from ..checkpoint import release_buffers
from ..errors import EngineBusy, EngineClosed
from ..paging import release
from ..system.interrupt import deferred
from .memory import give_back

if TYPE_CHECKING:
    from .engine import Engine

STOP_WAIT_S = 30
"""How long a run of another thread, which was told to stop, is waited for: far longer than a layer
takes."""
STREAM_WAIT_S = 2
"""How long a stream's step is waited for at the process's exit: its reader may ask for no other."""


def check_process(engine: Engine) -> None:
    """Raises EngineClosed: in a child that was forked, where none of the engine's threads are."""
    if engine._process != os.getpid():
        raise EngineClosed(
            "this process was forked from the one that loaded the model, and threads do not come "
            "along: load the model here, or start processes with the method 'spawn'"
        )


def close(engine: Engine) -> None:
    """Close `engine` when its run has ended; interrupted it is open as before, or closed.

    Raises:
        EngineBusy: that run is a stream of this very thread, or does not stop.
    """
    if engine._process != os.getpid():
        engine.closed = True  # what it holds is its parent's
        return
    with deferred() as interrupts:
        if not engine.turns.take_last(STOP_WAIT_S, interrupts):
            if interrupts.noted:
                return  # raised when the block ends
            raise EngineBusy("a stream is still open on this engine: close it, then the engine")
        try:
            _free(engine)
        finally:
            engine.turns.leave()


_alive: WeakSet[Engine] = WeakSet()


def at_exit(engine: Engine) -> None:
    """Have a run that is under way when the process exits end before, and no other begin.

    Threads that are daemons are cut off then in the middle of what they do, and MLX, in the middle
    of computing, aborts the process.
    """
    _alive.add(engine)


def free_unreachable() -> None:
    """Free models that nobody has any more: made of cycles, they keep their slots until collected.

    A collection takes a tenth of a second and more where many modules are loaded.
    """
    if any(not engine.closed for engine in _alive):
        gc.collect()


@atexit.register
def _end_runs() -> None:
    for engine in list(_alive):
        if not engine.closed and engine._process == os.getpid():
            wait = STOP_WAIT_S if engine.turns.must_wait else STREAM_WAIT_S
            engine.stop()
            engine.turns.end_with_process(wait)


def _free(engine: Engine) -> None:
    """Take the memory out of all that the engine has handed out."""
    engine._uncap_cache()
    engine.closed = True
    engine._executor.shutdown()
    engine._reader.close()
    release_buffers()
    engine._installed = engine._installed.release()
    engine._kv_caches.release()
    release(engine.model)
    give_back()
