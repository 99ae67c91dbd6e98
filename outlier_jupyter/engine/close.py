"""Closing an engine: wait for the run under way, close the files, free the memory."""

from __future__ import annotations

import atexit
import gc
import os
from typing import TYPE_CHECKING
from weakref import WeakSet

from ..checkpoint import release_buffers
from ..errors import EngineBusy, EngineClosed
from ..paging import release
from ..system.address_space import LOADED_NBYTES, check_room
from ..system.interrupt import deferred
from .loads import loads
from .memory import give_back

if TYPE_CHECKING:
    from .engine import Engine

STOP_WAIT_S = 30
"""How long `close` waits for a run of another thread to stop: far longer than a layer takes."""
STREAM_WAIT_S = 2
"""How long the process's exit waits for a stream's step: its reader may never take another."""


FORKED = (
    "this process was forked from one that had loaded a model, and its threads did not come along: "
    "start processes with the method 'spawn', and load the model there"
)
_loaded_in: list[int] = []
"""The process that first loaded a model here, if any."""


def check_process(engine: Engine) -> None:
    """Raises EngineClosed: in a forked child, which has none of the engine's threads."""
    if engine._process != os.getpid():
        raise EngineClosed(FORKED)


def check_can_load() -> None:
    """Note that this process loads a model.

    Raises:
        EngineClosed: it was forked from one that has loaded a model, where MLX would wait for ever.
        OptionError: a limit of the process leaves no address space for the libraries.
    """
    check_room(LOADED_NBYTES)
    if not _loaded_in:
        _loaded_in.append(os.getpid())
    if _loaded_in[0] != os.getpid():
        raise EngineClosed(FORKED)


def close(engine: Engine) -> None:
    """Close `engine` when its run has ended. Interrupted, it is either closed or open as before.

    Raises:
        EngineBusy: the run is a stream of the calling thread, or does not stop.
    """
    if engine._process != os.getpid():
        engine.closed = True  # its files and memory belong to the parent process
        return
    with deferred() as interrupts:
        if not engine.run_lock.acquire_for_good(STOP_WAIT_S, interrupts):
            if interrupts.noted:
                return  # raised when the block ends
            raise EngineBusy("a stream is still open on this engine: close it, then the engine")
        try:
            _free(engine)
        finally:
            engine.run_lock.release()


_alive: WeakSet[Engine] = WeakSet()


def at_exit(engine: Engine) -> None:
    """Stop the engine's run before the process exits, and allow no further run.

    Python cuts off daemon threads at exit, and MLX aborts the process if cut off while computing.
    """
    _alive.add(engine)


def free_unreachable() -> None:
    """Free unreferenced models: they are made of cycles and keep their slots until collected.

    A collection takes a tenth of a second or more if many modules are loaded.
    """
    if any(not engine.closed for engine in _alive):
        gc.collect()


@atexit.register
def _end_runs() -> None:
    loads.end(STOP_WAIT_S)
    for engine in list(_alive):
        if not engine.closed and engine._process == os.getpid():
            wait = STOP_WAIT_S if engine.run_lock.must_wait else STREAM_WAIT_S
            engine.stop()
            engine.run_lock.acquire_at_exit(wait)
            engine.history.save()


def _free(engine: Engine) -> None:
    """Free the memory, also of objects that the user still references."""
    engine._unwatch_memory()
    engine._uncap_cache()
    engine.closed = True
    engine._executor.shutdown()
    engine._reader.close()
    engine.history.save()
    release_buffers()
    engine._installed = engine._installed.release()
    engine._kv_caches.release()
    release(engine.model)
    give_back()
