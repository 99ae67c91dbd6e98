"""The engine: a loaded model whose experts are on disk, asked for text and for its state.

`load.py` makes one; `decode.py` is the path of one token. Here is what lies around a run: its
prompt, its KV cache, one run at a time, who subscribes, and what is kept however it ends.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx_lm.generate import wired_limit
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..checkpoint import Reader, buffers_nbytes
from ..errors import CheckpointChanged, EngineClosed
from ..events import Event, PromptEncoded, Resized, RunDone, Sink, TextProduced
from ..options import GenerateOptions, LoadOptions, resized, takes
from ..paging import Installed, Stopped, resize
from ..runs.run import Interrupted, Run, Step
from ..runs.text_stream import Transcript
from ..system.interrupt import Interrupts, deferred
from ..system.memory_info import memory_rate
from ..trace import TraceInfo
from ..trace.recorder import Recorder
from .async_run import AsyncRun
from .close import at_exit, check_process, close
from .decode import Begun as Begun
from .decode import Decoding
from .event_bus import Listeners
from .kv_cache import KVCache, KVCaches, changed_by
from .memory import ACTIVATION_NBYTES, MemoryUse, cache_cap, measure, outside_mlx
from .memory_budget import MemoryBounds, Needs, check_prompt, fitted
from .prefill_chunk import Costs, choose_chunk
from .prompts import Encoded, Prompt, check_length, context_of, encode
from .reference import Reference
from .routing_options import RoutingOptions
from .status import Status
from .threads import at_its_end
from .threads import leave_thread as leave_thread
from .turns import Turns
from .vocabulary import Vocabulary

FORESEEN_STEPS = 4096
"""The recorder makes room for at most this many generated tokens ahead; it grows beyond."""


class Engine:
    """A loaded model. Made by `outlier_jupyter.load`; close it, or use it as a context manager.

    Attributes:
        model: mlx-lm's module with its switches swapped; call it as any of mlx-lm's.
        tokenizer: mlx-lm's tokenizer.
        config: the model's config.json.
        info: what every trace of this engine says about model, slots and reader.
        routing: called, a block in which routers choose otherwise; see `RoutingOptions`.
        last_run: the newest run, also an interrupted or failed one; None before the first. Those
            that a study (`ablate`, `sweep`) makes for itself do not count.
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
        ram_gb: float | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.model = model
        self.tokenizer, self.config = tokenizer, config
        self.info, self.options = info, options
        self.last_run: Run | None = None
        self._installed = installed
        self._reader, self._executor = reader, executor
        self._costs = costs
        self._clock = clock
        self._stop = threading.Event()
        self._tell = Listeners(self._stop.set)
        self.turns, self._process = Turns(), os.getpid()
        self._interrupts = Interrupts(self._stop_mine, self._tell.in_a_sink)
        self._needs, self._ram_gb = needs, ram_gb
        self._kv_caches = KVCaches(model, round(options.kept_kv_gb * 1e9))
        self._vocabulary = Vocabulary(tokenizer)
        self._python_nbytes = outside_mlx()
        self.routing = RoutingOptions(
            installed.routing_override, info.experts_per_layer, info.native_top_k, options.top_k
        )
        self.closed = False
        self._uncap_cache = cache_cap.hold(self)
        at_exit(self)
        for pager in installed.pagers:
            pager.stop = self._stop
            pager.sink = self._tell

    @takes(GenerateOptions)
    def generate(self, prompt: Prompt, **options: Any) -> Run:
        """Generate text and return the finished `Run`.

        Args:
            prompt: a text (put into the model's chat template unless `raw=True`) or messages.
            **options: the fields of `GenerateOptions`.

        Raises:
            Interrupted: stopped by the user; `.run` holds what was made.
            OptionError, EngineBusy, EngineClosed, ReadFailed: nothing is lost, ask again.
            CheckpointChanged: a file was written to since the model was loaded; load it again.
        """
        begun = begin(self, prompt, options)
        with self.turns.ending(), self._interrupts:
            for _ in begun.steps:
                pass
            assert begun.run is not None
            if self._interrupts.noted:  # when all was made
                raise Interrupted(begun.run)
        return begun.run

    async def agenerate(self, prompt: Prompt, **options: Any) -> Run:
        """`generate` for async code: the event loop stays free while a thread decodes.

        Cancelling stops the run. A stopped run is returned (`finish_reason` is `interrupted`):
        a KeyboardInterrupt would end the event loop.
        """
        return await AsyncRun(self).run(prompt, options)

    @takes(GenerateOptions)
    def stream(self, prompt: Prompt, **options: Any) -> Generator[Step, None, None]:
        """Yield one `Step` per generated token; the `Run` is then in `last_run`.

        Arguments and errors are those of `generate`. Leaving the loop early ends the run as
        interrupted.
        """
        return begin(self, prompt, options).steps

    def stop(self) -> None:
        """Stop the run under way before its next layer; callable from any thread."""
        if self.turns.taken:
            self._stop.set()

    def _stop_mine(self) -> None:
        """As `stop`, if it is this thread's run: else it waits for the end of another's."""
        if self.turns.mine:
            self._stop.set()

    def subscribe(self, sink: Sink, *kinds: type[Event]) -> Callable[[], None]:
        """Have `sink` called with every event of later runs; call what is returned to end that.

        With `kinds`, classes of `outlier_jupyter.events`, it hears only those, and costs only them;
        `ResidentLayers` has to be named, or what it stands for is told.
        Between runs it is told of `Resized` alone.
        A sink is called on the decode thread, for microseconds. One that raises is dropped and
        logged, and decoding goes on; KeyboardInterrupt stops the run.
        """
        return self._tell.subscribe(sink, *kinds)

    def resize(
        self, *, cache_gb: float | str | None = None, cache_experts: int | None = None,
        force: bool = False,
    ) -> Status:  # fmt: skip
        """Give the cache another size, between two runs; the experts used last stay in it.

        Args:
            cache_gb, cache_experts: one of them, as in `LoadOptions`.
            force: take a size that does not fit beside what a run needs, too.

        Raises:
            OptionError: a size that cannot be used or had; the cache is then as it was.
            EngineBusy, EngineClosed.
        """
        options = replace(resized(self.options, cache_gb, cache_experts), force=force)
        with deferred() as interrupts, self.turns.ending(), self._alone(interrupts):
            options = _fitted(self, options)
            resize(self._installed, float(options.cache_gb), options.cache_experts)
            self.options = options
            self.info = replace(self.info, slots=self._installed.slots)
            self._tell.between_runs(Resized(self.info.slots))
        return self.status()

    def status(self) -> Status:
        """Where the engine stands now."""
        held, k = len(self.resident()), self.options.top_k
        return Status.of(self.info, self._installed, self._reader, held, k, self.closed)

    def memory(self) -> MemoryUse:
        """Where the memory of this process is, part by part; `print` it for a table."""
        return _memory(self)

    def close(self) -> None:
        """Close the files and free the memory, whoever still has the engine or its model.

        A run under way is stopped first. What was made stays: `last_run`, `info`, `config`.

        Raises:
            EngineBusy: that run is a stream of this very thread, or does not stop.
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
        """The (layer, expert) pairs in a slot now, the first to leave first: int16 [n, 2]."""
        keys = [key for pager in self._installed.pagers for key in pager.table.order()]
        return np.array(keys, np.int16).reshape(-1, 2)

    @contextmanager
    def _alone(self, interrupts: Interrupts | None = None) -> Iterator[None]:
        """Hold the engine: one run, or one change of it, at a time."""
        check_process(self)
        self.turns.take(interrupts or self._interrupts)
        at_its_end.begin()
        try:
            if self.closed:
                raise EngineClosed("this engine was closed: load the model again")
            self._stop.clear()
            if self._interrupts.noted:  # before there was a run to stop
                self._stop.set()
            yield
        finally:
            try:
                self._installed.settle()
                self._kv_caches.end()
                self._tell.end()
            finally:  # whatever came between
                self.turns.leave()

    def _run(
        self, prompt: Encoded, asked: GenerateOptions, made: list[Run]
    ) -> Generator[Step, None, None]:
        with self._alone(), self.routing.applied(asked):
            _check_files(self)
            kv, rest = self._kv_caches.start(prompt.tokens, asked)
            if asked.prefill_chunk is None:
                asked = replace(asked, prefill_chunk=_chunk(self, asked, len(prompt.tokens)))
            foreseen = len(rest) + min(asked.max_tokens, FORESEEN_STEPS)
            recorder = Recorder(len(self._installed.switches), foreseen, self.resident())
            self._tell.begin(recorder, *Recorder.KINDS)
            held = prompt.tokens[: len(prompt.tokens) - len(rest)]
            decoding = _decoding(self, rest, kv, asked, recorder, held)
            self._tell(PromptEncoded(np.array(rest, np.int32), len(prompt.tokens) - len(rest)))
            try:
                yield from self._watched(decoding, recorder, prompt, asked, made)
            finally:
                if asked.reuse_kv:
                    whole = bool(decoding.finish_reason)
                    self._kv_caches.keep(held + decoding.read, kv, asked, whole)

    def _watched(
        self, decoding: Decoding, recorder: Recorder, prompt: Encoded, asked: GenerateOptions,
        made: list[Run],
    ) -> Iterator[Step]:  # fmt: skip
        """Yield the run's steps, and keep what it made however it ends."""

        def keep(reason: str) -> Run:
            if rest := decoding.transcript.finish():
                self._tell(TextProduced(rest))
            self._tell(RunDone(reason))
            info = run_info(self, asked, len(prompt.tokens) + max(len(decoding.generated) - 1, 0))
            trace, spell = recorder.trace(info), self._vocabulary.bytes_of
            made.append(decoding.result(prompt.asked, prompt.text, reason, trace, spell))
            self.last_run = made[-1]
            return made[-1]

        try:
            with wired_limit(self.model):
                yield from decoding.steps()
        except (Stopped, KeyboardInterrupt):
            raise Interrupted(keep("interrupted")) from None
        except GeneratorExit:
            keep("interrupted")
            raise
        except BaseException:
            keep("error")
            raise
        keep(decoding.finish_reason)


def begin(engine: Engine, prompt: Prompt, options: dict[str, Any]) -> Begun:
    """A run that is made as its steps are asked for; arguments and errors as `Engine.stream`'s."""
    if engine.closed:
        raise EngineClosed("this engine was closed: load the model again")
    asked = engine.routing.options(options)
    prepared = encode(engine.tokenizer, prompt, asked, engine.config)
    length, kept = len(prepared.tokens), engine._kv_caches.kept_nbytes
    check_length(context_of(engine.config), length, asked.max_tokens, engine.options.force)
    if not engine.options.force:
        check_prompt(length, asked, engine._needs, engine._ram_gb, kept)
    made: list[Run] = []
    return Begun(engine._interrupts, engine._run(prepared, asked, made), made)


def _decoding(
    engine: Engine, rest: list[int], kv: KVCache, asked: GenerateOptions, recorder: Recorder,
    held: list[int],
) -> Decoding:  # fmt: skip
    pagers = engine._installed.pagers
    beside = Reference(engine.model, engine.routing, pagers, held, asked.prefill_chunk)
    return Decoding(
        engine.model,
        rest,
        kv,
        asked,
        transcript=Transcript(engine.tokenizer.detokenizer, asked.stop, engine._vocabulary.size),
        ends=set(engine.tokenizer.eos_token_ids),
        recorder=recorder,
        tap=engine._installed.tap,
        emit=engine._tell,
        stop=engine._stop,
        clock=engine._clock,
        check=partial(_check_files, engine),
        reference=beside if asked.measure_loss else None,
    )


def _files_changed(engine: Engine) -> str:
    """Which file of experts was written to since the model was loaded, in words; or ""."""
    return engine._reader.changed() if engine._installed.switches else ""


def _check_files(engine: Engine) -> None:
    """Raises CheckpointChanged: what was read, or will be, may be wrong."""
    if said := _files_changed(engine):
        raise CheckpointChanged(
            f"{said}, so what was read of it since may be wrong: restore the file if that was not "
            "meant, and load the model again"
        )


def run_info(engine: Engine, asked: GenerateOptions, length: int | None = None) -> TraceInfo:
    """`engine.info` of a run with these options, of `length` tokens if that is known already."""
    changed = [*engine.routing.words(asked), *changed_by(asked, length)]
    changed += filter(None, [_files_changed(engine)])
    options = asdict(engine.options) | asdict(asked)
    options["top_k"] = asked.top_k or engine.options.top_k
    words = "; ".join(changed)
    return replace(engine.info, options=options, memory_rate=memory_rate(), changed_output=words)


def _fitted(engine: Engine, options: LoadOptions) -> LoadOptions:
    """`options` with the cache's size worked out, if it fits beside all else of this process."""
    room = MemoryBounds.now(engine._ram_gb, engine.memory().freed)
    have = engine._installed.bank_nbytes
    return fitted(engine._installed.switches, options, engine._needs, room, have)


def _memory(engine: Engine) -> MemoryUse:
    return measure(
        model=engine.model,
        experts=engine._installed.bank_nbytes,
        kv_run=engine._kv_caches.running,
        kv_kept=engine._kv_caches.kept_nbytes,
        kv_bound=engine._kv_caches.bound,
        readers=engine._reader.buffer_nbytes() + buffers_nbytes(),
        trace=engine.last_run.trace.nbytes if engine.last_run else 0,
        python=engine._python_nbytes,
    )


def _chunk(engine: Engine, asked: GenerateOptions, context: int) -> int:
    """Tokens per chunk of a prompt, where nobody said."""
    resident = engine._installed.slots >= sum(engine.info.experts_per_layer)
    plain = asked.kv_bits is None and asked.max_kv_size is None
    return choose_chunk(context, engine._costs, resident, ACTIVATION_NBYTES, plain)
