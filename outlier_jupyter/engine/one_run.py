"""One run of an engine: prompt and options to steps, events and the finished `Run`.

`decode.py` is the decode loop. This module does the work around it: encode the prompt, find the KV
cache, wait for the lock, connect subscribers, and keep the result however the run ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from mlx_lm.generate import wired_limit

from ..errors import EngineClosed
from ..events import PromptEncoded, TextProduced
from ..options import GenerateOptions
from ..paging import Stopped
from ..runs.run import Interrupted, Run, Step
from .contexts import context_for
from .decode import StartedRun
from .dialects import dialect_of
from .kv_cache import KVCache
from .memory_budget import check_prompt
from .open_run import OpenRun, check_files, kinds_of
from .prompts import Encoded, Prompt, as_prompt, check_length, context_of, encode
from .sampling import Sampling, completed

if TYPE_CHECKING:
    from .engine import Engine

KeepKV: TypeAlias = Callable[[list[int], KVCache], None]
"""Takes the tokens that a run has read, and the KV cache that holds them."""


def start_run(engine: Engine, prompt: Prompt, options: dict[str, Any]) -> StartedRun:
    """A run that decodes as its steps are taken; arguments and errors as of `Engine.stream`."""
    return begin(engine, *encoded(engine, prompt, options))


def encoded(
    engine: Engine, prompt: Prompt, options: dict[str, Any]
) -> tuple[Encoded, GenerateOptions]:
    """The prompt in tokens, after the context's if the options name one, and the options."""
    if engine.closed:
        raise EngineClosed("this engine was closed: load the model again")
    settings = engine.routing.options(options)
    if settings.context is not None:
        prompt = context_for(engine, settings.context, settings).before(as_prompt(prompt))
    dialect = dialect_of(engine.tokenizer)
    return encode(engine.tokenizer, prompt, settings, engine.config, dialect), settings


def begin(
    engine: Engine, prepared: Encoded, settings: GenerateOptions, keep: KeepKV | None = None
) -> StartedRun:
    """A run of an encoded prompt that decodes as its steps are taken.

    Args:
        keep: called at the end of a whole run, while the engine is still locked.

    Raises:
        OptionError: the prompt is too long, or an option names no token.
    """
    settings, sampling = checked(engine, prepared, settings)
    finished: list[Run] = []
    steps = _steps(engine, prepared, settings, sampling, finished, keep)
    return StartedRun(engine._interrupts, steps, finished)


def checked(
    engine: Engine, prepared: Encoded, settings: GenerateOptions
) -> tuple[GenerateOptions, Sampling]:
    """The run's `completed` options and its sampling; errors as of `begin`."""
    settings = completed(settings, engine.sampling)
    sampling = Sampling.of(settings, engine.tokenizer, engine.config)
    if settings.schema is not None:
        sampling = _constrained(engine, sampling, prepared, settings)
    length, kept = len(prepared.tokens), engine._kv_caches.kept_nbytes
    check_length(context_of(engine.config), length, settings.max_tokens, engine.options.force)
    if not engine.options.force:
        check_prompt(length, settings, engine._needs, engine._ram_gb, kept)
    return settings, sampling


def _constrained(
    engine: Engine, sampling: Sampling, prompt: Encoded, options: GenerateOptions
) -> Sampling:
    """`sampling` of an answer that follows the schema; thinking may come before it."""
    assert options.schema is not None
    dialect, openings = dialect_of(engine.tokenizer), ()
    if dialect.opening and options.thinking != "off" and not prompt.kept:
        openings = tuple(engine.tokenizer.encode(dialect.opening, add_special_tokens=False)[:1])
    matcher = engine._grammars.matcher(options.schema, sampling.ends)
    return replace(sampling, matcher=matcher, openings=openings)


def _steps(
    engine: Engine, prompt: Encoded, options: GenerateOptions, sampling: Sampling,
    finished: list[Run], keep: KeepKV | None,
) -> Generator[Step, None, None]:  # fmt: skip
    kinds = kinds_of(engine, prompt)
    with engine._alone(), engine.routing.applied(options):
        engine._installed.check()
        check_files(engine)
        run = OpenRun(engine, prompt, options, sampling, kinds, engine._bus)
        engine._bus.begin(run.recorder, *run.recorder.KINDS)
        decoding = run.decoding
        engine._bus(PromptEncoded(np.array(run.rest, np.int32), len(run.reused)))
        if decoding.kept:
            engine._bus(TextProduced(decoding.kept))
        try:
            yield from _recorded(engine, run, finished)
            if keep is not None:
                keep(run.reused + decoding.read, run.kv)
        finally:
            run.keep_kv(run.kv, bool(decoding.finish_reason))


def _recorded(engine: Engine, run: OpenRun, finished: list[Run]) -> Iterator[Step]:
    """Yield the run's steps, and keep the `Run` however it ends."""

    def keep(reason: str) -> Run:
        finished.append(run.finish(reason))
        return finished[-1]

    try:
        with wired_limit(engine.model):
            yield from run.decoding.steps()
    except (Stopped, KeyboardInterrupt):
        raise Interrupted(keep("interrupted")) from None
    except GeneratorExit:
        if not sys.is_finalizing():  # a stream that is open when the interpreter ends
            keep("interrupted")
        raise
    except BaseException:
        keep("error")
        raise
    keep(run.decoding.finish_reason)
