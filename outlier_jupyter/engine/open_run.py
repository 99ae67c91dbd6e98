"""A run between its first call and its finished `Run`: KV cache, recorder, text, and what it keeps.

`one_run.py` takes such a run's steps alone, `many_runs.py` those of several together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

from ..errors import CheckpointChanged
from ..events import Event, RunDone
from ..options import GenerateOptions, recorded
from ..residency.eviction_order import CacheStart
from ..runs.origin import Origin
from ..runs.run import Run
from ..runs.text_stream import Transcript
from ..runs.token_table import TokenIds
from ..system.memory_info import memory_rate
from ..trace import TraceInfo
from ..trace.recorder import Recorder
from .adapters import adapter_words
from .contexts import context_for
from .decode import Decoding
from .dialects import dialect_of
from .kv_cache import KVCache, changed_by
from .prefill_chunk import choose_chunk
from .prompt_kinds import PromptKinds, prompt_kinds
from .prompts import Encoded, vocabulary_of
from .reference import Reference
from .sampling import Sampling, sampling_changes
from .segments import GeneratedSegments
from .templates import apply

if TYPE_CHECKING:
    from .engine import Engine

EXPECTED_STEPS = 4096
"""The recorder allocates for at most this many generated tokens at first; it grows if needed."""

SCORED_NBYTES = 12
"""Bytes per entry of the vocabulary for each token of a chunk with `score_prompt`: its logits, and
their log-probabilities before and after a change of type."""


class OpenRun:
    """A run whose calls can begin; the engine must be locked, and its routing applied.

    Args:
        options: as `completed`.
        kinds: of `kinds_of`.
        emit: receives the run's events; by default its own recorder.
        at_once: with how many other runs it takes its steps, itself included.

    Attributes:
        decoding, recorder: of this run alone.
        kv: its KV cache; `rest`, the prompt's tokens that it lacks.
        reused: the prompt's tokens before those.
        start: what the experts' cache was when the run began; None unless the run was alone.
    """

    def __init__(
        self, engine: Engine, prompt: Encoded, options: GenerateOptions, sampling: Sampling,
        kinds: PromptKinds, emit: Callable[[Event], None] | None = None, at_once: int = 1,
    ) -> None:  # fmt: skip
        self._engine, self.prompt, self._kinds, self._at_once = engine, prompt, kinds, at_once
        self.kv, self.rest = _kv(engine, prompt.tokens, options)
        if options.prefill_chunk is None:
            options = replace(options, prefill_chunk=_chunk(engine, options, len(prompt.tokens)))
        self.options = options
        expected = len(self.rest) + min(options.max_tokens, EXPECTED_STEPS)
        layers = len(engine._installed.switches)
        self.recorder = Recorder(layers, expected, engine.resident())
        self.start: CacheStart | None = None
        if at_once == 1:
            self.start = engine._cache_starts.take(engine._installed.tables)
        self.reused = prompt.tokens[: len(prompt.tokens) - len(self.rest)]
        self._emit = emit or self.recorder
        self.decoding = self._decoding(sampling)
        kept = prompt.tokens[len(prompt.tokens) - prompt.kept :]
        self.decoding.keep(kept, chosen=prompt.branched is not None)

    def finish(self, reason: str) -> Run:
        """The run so far, which ended by `reason`; it becomes the engine's last one."""
        engine, decoding, prompt = self._engine, self.decoding, self.prompt
        rest = decoding.transcript.finish()
        pieces = decoding.segments.add(rest) + decoding.segments.finish()
        decoding.report_text(rest, pieces)
        self._emit(RunDone(reason))
        length = len(prompt.tokens) + max(len(decoding.generated) - 1, 0)
        info = self._with_changes(run_info(engine, self.options, length))
        whole = self._kinds.kinds + decoding.segments.token_kinds()
        trace = self.recorder.trace(info, whole[len(self.reused) :])
        if self.start is not None:
            trace.remember(self.start)
        run = Run(
            prompt=prompt.prompt,
            encoded=prompt.text,
            text=decoding.transcript.text,
            tokens=np.array(decoding.generated, np.int32).view(TokenIds),
            finish_reason=reason,
            trace=trace,
            text_ends=np.array(decoding.text_ends, np.int32),
            spans=decoding.segments.spans(decoding.transcript.text),
            prefilled=decoding.kept,
            spell=engine._vocabulary.bytes_of,
            reused=np.array(self.reused, np.int32),
            branched=prompt.branched,
            origin=Origin(ref(engine), self.options, prompt),
        )
        engine.last_run = run
        engine.history.add(trace.experts)
        return run

    def keep_kv(self, kv: KVCache, whole: bool) -> None:
        """Keep its KV cache for later runs, if `reuse_kv` is set; `whole` as of `KVCaches.keep`."""
        if self.options.reuse_kv:
            read = self.reused + self.decoding.read
            self._engine._kv_caches.keep(read, kv, self.options, whole)

    def _decoding(self, sampling: Sampling) -> Decoding:
        engine, options, reused = self._engine, self.options, self.reused
        segments = GeneratedSegments(dialect_of(engine.tokenizer), self._kinds.state)
        budget = options.thinking_budget is not None
        reference = None
        if options.measure_loss:
            pagers, chunk = engine._installed.pagers, options.prefill_chunk
            reference = Reference(engine.model, engine.routing, pagers, reused, chunk)
        return Decoding(
            engine.model,
            self.rest,
            self.kv,
            options,
            transcript=Transcript(
                engine.tokenizer.detokenizer, options.stop, engine._vocabulary.size
            ),
            segments=segments,
            closing=segments.closing(engine.tokenizer) if budget else [],
            sampling=sampling,
            recorder=self.recorder,
            tap=engine._installed.tap,
            emit=self._emit,
            stop=engine._stop,
            clock=engine._clock,
            check=partial(check_files, engine),
            relieve=engine._relief.act,
            reference=reference,
            reused=reused,
        )

    def _with_changes(self, info: TraceInfo) -> TraceInfo:
        """`info` with what changed the output beside the options."""
        budget = self.decoding.budget
        changes = [info.changed_output, str(self.prompt.branched or "")]
        if budget is not None and budget.closed:
            changes.append(f"thinking ended after {self.options.thinking_budget:,} tokens")
        values = info.options if self._at_once == 1 else info.options | {"at_once": self._at_once}
        return replace(info, changed_output="; ".join(filter(None, changes)), options=values)


def kinds_of(engine: Engine, prompt: Encoded) -> PromptKinds:
    """What each prompt token belongs to, and the state in which the answer begins."""
    own = prompt.tokens[: len(prompt.tokens) - prompt.kept]
    tokens = [engine._vocabulary.bytes_of(token) for token in own]

    def render(messages: list[dict[str, Any]]) -> str:
        return apply(engine.tokenizer, messages, prompt.variables)

    def offsets() -> list[tuple[int, int]]:
        backend = engine.tokenizer.backend_tokenizer
        return list(backend.encode(prompt.text, add_special_tokens=False).offsets)

    dialect = dialect_of(engine.tokenizer)
    return prompt_kinds(prompt.text, tokens, prompt.messages, render, dialect, offsets)


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


def _kv(engine: Engine, tokens: list[int], options: GenerateOptions) -> tuple[KVCache, list[int]]:
    """The run's KV cache, and the ids that it lacks."""
    kv, rest = engine._kv_caches.start(tokens, options)
    if options.context is None:
        return kv, rest
    context = context_for(engine, options.context, options)
    if len(tokens) - len(rest) >= len(context.tokens):  # an earlier run left more in memory
        return kv, rest
    return engine._kv_caches.go_on(tokens, context.tokens, context.load(engine.kv_parts))


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
