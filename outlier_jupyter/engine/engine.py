"""The engine: a loaded model with its experts on disk; it generates text and reports its state.

`load.py` makes one; `one_run.py` starts its runs. This module holds what runs share: the model, the
lock, the subscribers, the cache's size, and the newest run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..checkpoint import Reader, buffers_nbytes
from ..errors import EngineClosed
from ..events import Event, Resized, Sink
from ..options import GenerateOptions, LoadOptions, resized, takes
from ..paging import Installed, StopFlag, resize
from ..paging.elsewhere import InstalledElsewhere
from ..paging.probe import KVPart
from ..residency.eviction_order import CacheStarts
from ..runs.run import Interrupted, Run, Step
from ..system.interrupt import Interrupts, deferred
from ..trace import TraceInfo
from .async_run import AsyncRun
from .branch import start_branch
from .close import at_exit, check_process, close
from .context_calls import ContextCalls
from .decode import StartedRun
from .event_bus import EventBus
from .kv_cache import KVCaches
from .many_calls import ManyCalls
from .memory import MemoryUse, cache_cap, measure, outside_mlx
from .memory_budget import MemoryBounds, Needs, fitted
from .one_run import start_run
from .prefill_chunk import Costs
from .pressure import MemoryRelief
from .pressure import watch as watch_memory
from .prompts import Prompt, vocabulary_of
from .routing_history import RoutingHistory
from .routing_options import RoutingOptions
from .run_lock import RunLock
from .status import Status
from .structured import Grammars
from .threads import leave_thread as leave_thread
from .threads import thread_cleanup
from .vocabulary import Vocabulary


class Engine(ContextCalls, ManyCalls):
    """A loaded model. Made by `outlier_jupyter.load`; close it, or use it as a context manager.

    Attributes:
        model: mlx-lm's module with paged switches; call it like any mlx-lm model.
        tokenizer: mlx-lm's tokenizer.
        config: the model's config.json.
        info: model, slots, reader and machine, as every trace of this engine records them.
        sampling: the sampling that the model's makers advise (generation_config.json), by the names
            of `GenerateOptions`; {} if they say nothing.
        routing: `with engine.routing(…):` changes the routing; see `RoutingOptions`.
        history: the experts of this model's last tokens, kept for the next load; `.forget()`
            deletes them.
        kv_parts: the model's KV cache, part by part; empty if it could not be probed.
        last_run: the newest run, also an interrupted or failed one; None before the first. Runs
            that a study (`ablate`, `sweep`) makes internally do not count.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        tokenizer: TokenizerWrapper,
        config: dict[str, Any],
        info: TraceInfo,
        options: LoadOptions,
        installed: Installed,
        reader: Reader,
        executor: ThreadPoolExecutor,
        costs: Costs,
        needs: Needs,
        kv_parts: tuple[KVPart, ...] = (),
        sampling: dict[str, float] | None = None,
        ram_gb: float | None = None,
        history: RoutingHistory,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.model = model
        self.tokenizer, self.config = tokenizer, config
        self.info, self.options = info, options
        self.sampling = sampling or {}
        self.last_run: Run | None = None
        self._installed = installed
        self._reader, self._executor = reader, executor
        self._costs = costs
        self._clock, self.history = clock, history
        self._stop = StopFlag()
        self._bus = EventBus(self._stop.set)
        self.run_lock, self._process = RunLock(), os.getpid()
        self._interrupts = Interrupts(self._stop_mine, self._bus.in_a_sink)
        self._needs, self._ram_gb, self.kv_parts = needs, ram_gb, kv_parts
        self._kv_caches = KVCaches(model, round(options.kept_kv_gb * 1e9))
        self._vocabulary = Vocabulary(tokenizer)
        size = max(vocabulary_of(config), self._vocabulary.size)
        self._grammars = Grammars(tokenizer, self._vocabulary.bytes_of, size)
        self._python_nbytes = outside_mlx()
        self.routing = RoutingOptions(
            installed.routing_override, info.experts_per_layer, info.native_top_k, options.top_k
        )
        self.closed, self._cache_starts = False, CacheStarts()
        self._uncap_cache = cache_cap.hold(self)
        self._relief, self._unwatch_memory = MemoryRelief(self), watch_memory(self)
        at_exit(self)
        for pager in installed.pagers:
            pager.stop = self._stop
            pager.sink = self._bus

    @takes(GenerateOptions)
    def generate(self, prompt: Prompt, **options: Any) -> Run:
        """Generate text and return the finished `Run`.

        Args:
            prompt: a text (put into the model's chat template unless `raw=True`) or messages.
            **options: the fields of `GenerateOptions`.

        Raises:
            Interrupted: stopped by the user; `.run` holds what was made.
            OptionError, EngineBusy, EngineClosed, ReadFailed: the engine stays as it was.
            CheckpointChanged: a file was written to since the model was loaded; load it again.
        """
        return self._whole(start_run(self, prompt, options))

    def _whole(self, started: StartedRun) -> Run:
        """Decode a started run to its end."""
        with self.run_lock.ends_by_itself(), self._interrupts:
            for _ in started.steps:
                pass
            assert started.run is not None
            if self._interrupts.noted:  # after the last step
                raise Interrupted(started.run)
        return started.run

    @takes(GenerateOptions)
    def branch(
        self, run: Run, token: int, choose: int | str | None = None, *, rank: int | None = None,
        **options: Any,
    ) -> Run:  # fmt: skip
        """Go on from one token of a run with another in its place, and return the new `Run`.

        Its text begins with that of the tokens before; `branched` says where it left the other run.
        A KV cache that was kept for the run (`reuse_kv`) is reused.

        Args:
            run: a run of this model, also one loaded from a file.
            token: the number of the generated token, from 1; negative numbers count from the end.
            choose: the id of the token to take, or its text, first of all an alternative's.
            rank: instead, take the alternative of this rank; 1 is the likeliest.
            **options: as of `generate`, where they are to differ from the run's own.

        Raises:
            OptionError: no such token or choice, or one that ends the answer; and as `generate`.
        """
        return self._whole(start_branch(self, run, token, choose, rank, options))

    async def agenerate(self, prompt: Prompt, **options: Any) -> Run:
        """`generate` for async code: the event loop stays free while a thread decodes.

        Cancelling stops the run. A stopped run is returned (`finish_reason` is `interrupted`):
        a KeyboardInterrupt would end the event loop.
        """
        return await AsyncRun(self).run(prompt, options)

    @takes(GenerateOptions)
    def stream(self, prompt: Prompt, **options: Any) -> Generator[Step, None, None]:
        """Yield one `Step` per generated token; afterwards the `Run` is in `last_run`.

        Arguments and errors are those of `generate`. Leaving the loop early ends the run as
        interrupted.
        """
        return start_run(self, prompt, options).steps

    def stop(self) -> None:
        """Stop the run under way before its next layer. Any thread may call it."""
        if self.run_lock.locked:
            self._stop.set()

    def _stop_mine(self) -> None:
        """As `stop`, if the run is the calling thread's; a waiting thread stops no other's run."""
        if self.run_lock.owned:
            self._stop.set()

    def subscribe(self, sink: Sink, *kinds: type[Event]) -> Callable[[], None]:
        """Call `sink` with every event of later runs; the returned function unsubscribes it.

        The decode thread calls the sink, so it should take microseconds. A sink that raises is
        dropped and logged, and decoding goes on; a KeyboardInterrupt stops the run. Between runs
        only `Resized` is sent.

        Args:
            kinds: classes of `outlier_jupyter.events`; only these are sent, at their cost alone.
                Subscribers that do not request `ResidentLayers` receive its individual events.
        """
        return self._bus.subscribe(sink, *kinds)

    def resize(
        self, *, cache_gb: float | str | None = None, cache_experts: int | None = None,
        force: bool = False,
    ) -> Status:  # fmt: skip
        """Resize the cache between two runs; the experts last in eviction order stay resident.

        Args:
            cache_gb, cache_experts: one of them, as in `LoadOptions`.
            force: also accept a size that leaves too little memory for a run.

        Raises:
            OptionError: the size is invalid or does not fit; the cache stays as it was.
            EngineBusy, EngineClosed.
        """
        options = replace(resized(self.options, cache_gb, cache_experts), force=force)
        with deferred() as interrupts, self.run_lock.ends_by_itself(), self._alone(interrupts):
            self.options = _resized(self, options)
            self._relief.forget()
            self.info = replace(self.info, slots=self._installed.slots)
            self._bus.between_runs(Resized(self.info.slots))
        return self.status()

    def status(self) -> Status:
        """The engine's state now."""
        resident, k = len(self.resident()), self.options.top_k
        where = self._installed, self._reader, resident, k
        note, before = self._relief.note, self.history.at_load
        return Status.of(
            self.info, *where, self.closed, self.last_run, self.sampling, note, before,
            self._installed.rank_states,
        )  # fmt: skip

    def memory(self) -> MemoryUse:
        """The memory of this process, part by part; `print` it for a table."""
        return _memory(self)

    def close(self) -> None:
        """Close the files and free the memory, also if the engine or its model is still referenced.

        A run under way is stopped first. `last_run`, `info` and `config` stay.

        Raises:
            EngineBusy: the run is a stream of the calling thread, or does not stop.
        """
        self.stop()
        close(self)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._installed.slots} expert slots"
        note = f" ({self._reader.note})" if self._reader.note else ""
        return f"Engine({self.info.model!r}, {state}, reads: {self._reader.name}{note})"

    def resident(self) -> npt.NDArray[np.int16]:
        """The resident (layer, expert) pairs, in eviction order: int16 [n, 2]."""
        return np.array(self._installed.resident(), np.int16).reshape(-1, 2)

    @contextmanager
    def _alone(self, interrupts: Interrupts | None = None) -> Iterator[None]:
        """Take the lock: one run, or one change of the engine, at a time."""
        check_process(self)
        self.run_lock.acquire(interrupts or self._interrupts)
        thread_cleanup.begin()
        try:
            if self.closed:
                raise EngineClosed("this engine was closed: load the model again")
            self._stop.clear()
            if self._interrupts.noted:  # before the run began
                self._stop.set()
            yield
        finally:
            try:
                self._installed.settle()
                self._kv_caches.end()
                self._bus.end()
            finally:
                self._stop.clear()  # `engine.model` may be called between runs
                self.run_lock.release()


def _resized(engine: Engine, options: LoadOptions) -> LoadOptions:
    """Resize the cache, or those of all ranks; the options with the size in numbers."""
    installed = engine._installed
    if isinstance(installed, InstalledElsewhere):
        installed.ranks.resize(options.cache_gb, options.cache_experts)
        return options
    options = _fitted(engine, options)
    resize(installed, float(options.cache_gb), options.cache_experts)
    return options


def _fitted(engine: Engine, options: LoadOptions) -> LoadOptions:
    """`options` with the cache's size in numbers, if it fits beside the rest of this process."""
    room = MemoryBounds.now(engine._ram_gb, engine.memory().freed)
    have = engine._installed.bank_nbytes
    return fitted(engine._installed.switches, options, engine._needs, room, have)


def _memory(engine: Engine) -> MemoryUse:
    if engine._installed.rank_states:
        engine.resident()  # the ranks answer with the size of their processes
    return measure(
        model=engine.model,
        experts=engine._installed.bank_nbytes,
        kv_run=engine._kv_caches.running,
        kv_kept=engine._kv_caches.kept_nbytes,
        kv_bound=engine._kv_caches.bound,
        readers=engine._reader.buffer_nbytes() + buffers_nbytes(),
        trace=engine.last_run.trace.nbytes if engine.last_run else 0,
        python=engine._python_nbytes,
        ranks=[(r.host, r.bank_nbytes, r.process_nbytes) for r in engine._installed.rank_states],
    )
