"""One run of an engine: prompt and options to steps, events and the finished `Run`.

`decode.py` is the decode loop. This module does the work around it: encode the prompt, find the KV
cache, wait for the lock, connect subscribers, and keep the result however the run ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ref

import numpy as np
from mlx_lm.generate import wired_limit

from ..errors import CheckpointChanged, EngineClosed
from ..events import PromptEncoded, RunDone, TextProduced
from ..options import GenerateOptions, recorded
from ..paging import Stopped
from ..residency.eviction_order import CacheStart
from ..runs.origin import Origin
from ..runs.run import Interrupted, Run, Step
from ..runs.text_stream import Transcript
from ..system.memory_info import memory_rate
from ..trace import TraceInfo
from ..trace.recorder import Recorder
from .adapters import adapter_words
from .contexts import context_for
from .decode import Decoding, StartedRun
from .dialects import Dialect, dialect_of
from .kv_cache import KVCache, changed_by
from .memory_budget import check_prompt
from .prefill_chunk import choose_chunk
from .prompt_kinds import PromptKinds, prompt_kinds
from .prompts import Encoded, Prompt, as_prompt, check_length, context_of, encode, vocabulary_of
from .reference import Reference
from .sampling import Sampling, completed, sampling_changes
from .segments import GeneratedSegments
from .templates import apply

if TYPE_CHECKING:
    from .engine import Engine

KeepKV: TypeAlias = Callable[[list[int], KVCache], None]
"""Takes the tokens that a run has read, and the KV cache that holds them."""

EXPECTED_STEPS = 4096
"""The recorder allocates for at most this many generated tokens at first; it grows if needed."""

SCORED_NBYTES = 12
"""Bytes per entry of the vocabulary for each token of a chunk with `score_prompt`: its logits, and
their log-probabilities before and after a change of type."""


def start_run(engine: Engine, prompt: Prompt, options: dict[str, Any]) -> StartedRun:
    """A run that decodes as its steps are taken; arguments and errors as of `Engine.stream`."""
    if engine.closed:
        raise EngineClosed("this engine was closed: load the model again")
    settings = engine.routing.options(options)
    if settings.context is not None:
        prompt = context_for(engine, settings.context, settings).before(as_prompt(prompt))
    dialect = dialect_of(engine.tokenizer)
    return begin(
        engine, encode(engine.tokenizer, prompt, settings, engine.config, dialect), settings
    )


def begin(
    engine: Engine, prepared: Encoded, settings: GenerateOptions, keep: KeepKV | None = None
) -> StartedRun:
    """A run of an encoded prompt that decodes as its steps are taken.

    Args:
        keep: called at the end of a whole run, while the engine is still locked.

    Raises:
        OptionError: the prompt is too long, or an option names no token.
    """
    settings = completed(settings, engine.sampling)
    sampling = Sampling.of(settings, engine.tokenizer, engine.config)
    if settings.schema is not None:
        sampling = _constrained(engine, sampling, prepared, settings)
    length, kept = len(prepared.tokens), engine._kv_caches.kept_nbytes
    check_length(context_of(engine.config), length, settings.max_tokens, engine.options.force)
    if not engine.options.force:
        check_prompt(length, settings, engine._needs, engine._ram_gb, kept)
    finished: list[Run] = []
    dialect = dialect_of(engine.tokenizer)
    steps = _steps(engine, prepared, settings, sampling, dialect, finished, keep)
    return StartedRun(engine._interrupts, steps, finished)


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
    dialect: Dialect, finished: list[Run], keep: KeepKV | None,
) -> Generator[Step, None, None]:  # fmt: skip
    kinds = _prompt_kinds(engine, prompt, dialect)
    with engine._alone(), engine.routing.applied(options):
        check_files(engine)
        kv, rest = _kv(engine, prompt.tokens, options)
        if options.prefill_chunk is None:
            options = replace(options, prefill_chunk=_chunk(engine, options, len(prompt.tokens)))
        expected = len(rest) + min(options.max_tokens, EXPECTED_STEPS)
        recorder = Recorder(len(engine._installed.switches), expected, engine.resident())
        start = engine._cache_starts.take(engine._installed.tables)
        engine._bus.begin(recorder, *Recorder.KINDS)
        reused = prompt.tokens[: len(prompt.tokens) - len(rest)]
        segments = GeneratedSegments(dialect, kinds.state)
        decoding = _decoding(engine, rest, kv, options, sampling, recorder, reused, segments)
        kept = prompt.tokens[len(prompt.tokens) - prompt.kept :]
        decoding.keep(kept, chosen=prompt.branched is not None)
        engine._bus(PromptEncoded(np.array(rest, np.int32), len(reused)))
        if decoding.kept:
            engine._bus(TextProduced(decoding.kept))
        try:
            yield from _recorded(
                engine, decoding, recorder, start, prompt, kinds.kinds, reused, options, finished
            )
            if keep is not None:
                keep(reused + decoding.read, kv)
        finally:
            if options.reuse_kv:
                whole = bool(decoding.finish_reason)
                engine._kv_caches.keep(reused + decoding.read, kv, options, whole)


def _kv(engine: Engine, tokens: list[int], options: GenerateOptions) -> tuple[KVCache, list[int]]:
    """The run's KV cache, and the ids that it lacks."""
    kv, rest = engine._kv_caches.start(tokens, options)
    if options.context is None:
        return kv, rest
    context = context_for(engine, options.context, options)
    if len(tokens) - len(rest) >= len(context.tokens):  # an earlier run left more in memory
        return kv, rest
    return engine._kv_caches.go_on(tokens, context.tokens, context.load(engine.kv_parts))


def _recorded(
    engine: Engine, decoding: Decoding, recorder: Recorder, start: CacheStart, prompt: Encoded,
    kinds: bytes, reused: list[int], options: GenerateOptions, finished: list[Run],
) -> Iterator[Step]:  # fmt: skip
    """Yield the run's steps, and keep the `Run` however it ends.

    Args:
        kinds: of the prompt's tokens, without those of an answer that is gone on with.
        reused: the prompt's tokens that are not read.
    """

    def keep(reason: str) -> Run:
        rest = decoding.transcript.finish()
        pieces = decoding.segments.add(rest) + decoding.segments.finish()
        decoding.report_text(rest, pieces)
        engine._bus(RunDone(reason))
        info = run_info(engine, options, len(prompt.tokens) + max(len(decoding.generated) - 1, 0))
        info = _with_changes(info, decoding, options, prompt)
        whole = kinds + decoding.segments.token_kinds()
        trace = recorder.trace(info, whole[len(reused) :])
        spell = engine._vocabulary.bytes_of
        trace.remember(start)
        run = decoding.result(prompt, reason, trace, spell)
        origin = Origin(ref(engine), options, prompt)
        ids = np.array(reused, np.int32)
        finished.append(replace(run, reused=ids, branched=prompt.branched, origin=origin))
        engine.last_run = finished[-1]
        return finished[-1]

    try:
        with wired_limit(engine.model):
            yield from decoding.steps()
    except (Stopped, KeyboardInterrupt):
        raise Interrupted(keep("interrupted")) from None
    except GeneratorExit:
        if not sys.is_finalizing():  # a stream that is open when the interpreter ends
            keep("interrupted")
        raise
    except BaseException:
        keep("error")
        raise
    keep(decoding.finish_reason)


def _decoding(
    engine: Engine, rest: list[int], kv: KVCache, options: GenerateOptions, sampling: Sampling,
    recorder: Recorder, reused: list[int], segments: GeneratedSegments,
) -> Decoding:  # fmt: skip
    pagers = engine._installed.pagers
    reference = Reference(engine.model, engine.routing, pagers, reused, options.prefill_chunk)
    return Decoding(
        engine.model,
        rest,
        kv,
        options,
        transcript=Transcript(engine.tokenizer.detokenizer, options.stop, engine._vocabulary.size),
        segments=segments,
        closing=segments.closing(engine.tokenizer) if options.thinking_budget is not None else [],
        sampling=sampling,
        recorder=recorder,
        tap=engine._installed.tap,
        emit=engine._bus,
        stop=engine._stop,
        clock=engine._clock,
        check=partial(check_files, engine),
        relieve=engine._relief.act,
        reference=reference if options.measure_loss else None,
        reused=reused,
    )


def _prompt_kinds(engine: Engine, prompt: Encoded, dialect: Dialect) -> PromptKinds:
    """What each prompt token belongs to, and the state in which the answer begins."""
    own = prompt.tokens[: len(prompt.tokens) - prompt.kept]
    tokens = [engine._vocabulary.bytes_of(token) for token in own]

    def render(messages: list[dict[str, Any]]) -> str:
        return apply(engine.tokenizer, messages, prompt.variables)

    def offsets() -> list[tuple[int, int]]:
        backend = engine.tokenizer.backend_tokenizer
        return list(backend.encode(prompt.text, add_special_tokens=False).offsets)

    return prompt_kinds(prompt.text, tokens, prompt.messages, render, dialect, offsets)


def _with_changes(
    info: TraceInfo, decoding: Decoding, options: GenerateOptions, prompt: Encoded
) -> TraceInfo:
    """`info` with what changed the output beside the options."""
    changes = [info.changed_output, str(prompt.branched or "")]
    if decoding.budget is not None and decoding.budget.closed:
        changes.append(f"thinking ended after {options.thinking_budget:,} tokens")
    return replace(info, changed_output="; ".join(filter(None, changes)))


def files_changed(engine: Engine) -> str:
    """A message about a file of experts that changed since the model was loaded; or ""."""
    return engine._reader.changed() if engine._installed.switches else ""


def check_files(engine: Engine) -> None:
    """Raises CheckpointChanged: an expert file changed, so what is read from it may be wrong."""
    if reason := files_changed(engine):
        raise CheckpointChanged(
            f"{reason}, so what was read from it since may be wrong: restore the file if that was "
            "not intended, and load the model again"
        )


def run_info(engine: Engine, options: GenerateOptions, length: int | None = None) -> TraceInfo:
    """`engine.info` for a run with these options; `length` is its number of tokens, if known."""
    changed = [*engine.routing.words(options), *changed_by(options, length)]
    changed += [*filter(None, [adapter_words(engine.options)]), *sampling_changes(options)]
    changed += filter(None, [files_changed(engine)])
    values = recorded(engine.options) | recorded(options)
    values["top_k"] = options.top_k or engine.options.top_k
    reasons, notes = "; ".join(changed), (engine.info.reader_note, engine._relief.note)
    return replace(
        engine.info, options=values, memory_rate=memory_rate(), changed_output=reasons,
        reader_note="; ".join(filter(None, notes)),
    )  # fmt: skip


def _chunk(engine: Engine, options: GenerateOptions, context: int) -> int:
    """Tokens per prefill chunk, where the options leave it open."""
    resident = engine._installed.slots >= sum(engine.info.experts_per_layer)
    plain = options.kv_bits is None and options.max_kv_size is None
    budget = engine._needs.activations(context + options.max_tokens)
    chunk = choose_chunk(context, engine._costs, resident, budget, plain)
    if not options.score_prompt:
        return chunk
    vocabulary = vocabulary_of(engine.config) or engine._vocabulary.size
    return max(1, min(chunk, budget // (SCORED_NBYTES * vocabulary)))
