"""Reads the beginning of prompts once, and keeps it in a file with its KV cache.

The beginning is the part of a prompt whose tokens are the same whatever follows. The file is in
mlx-lm's own prompt-cache format; `contexts` reads it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mlx_lm.models.cache import save_prompt_cache

from ..errors import EngineClosed, OptionError
from ..events import CallStarted, Event
from ..options import GenerateOptions
from ..system import files
from ..system.progress import Progress
from .contexts import BREAK, Context, joined, kind_of
from .dialects import dialect_of
from .kv_cache import KVCache, common_length
from .kv_check import check_parts
from .one_run import begin
from .prompts import Encoded, Prompt, as_prompt, encode, with_system

if TYPE_CHECKING:
    from .engine import Engine

CONTINUATIONS = ("A", "1", "(é", "\n")
"""Texts that may follow: what no two of them change belongs to the context."""
VERSION = 1
"""Of what a file says beside the KV cache."""


def save_context(
    engine: Engine, prompt: Prompt, path: Path, settings: GenerateOptions, quiet: bool = False
) -> Context:
    """Read `prompt` and keep it in a file; arguments and errors as of `Engine.save_context`."""
    if engine.closed:
        raise EngineClosed("this engine was closed: load the model again")
    _check_options(settings)
    prompt = as_prompt(prompt)
    if settings.system is not None and not settings.raw:
        prompt = with_system(prompt, settings.system)
        settings = replace(settings, system=None)
    encoded = _beginning(engine, prompt, settings)
    settings = replace(settings, max_tokens=1)
    written: list[Context] = []

    def keep(tokens: list[int], kv: KVCache) -> None:
        check_parts(kv, engine.kv_parts, len(tokens))
        written.append(_write(engine, path, prompt, tokens, kv, settings))

    with Progress(
        total=len(encoded.tokens), desc="reading", unit="token", delay=1, leave=False, disable=quiet
    ) as bar:

        def report(event: Event) -> None:
            assert isinstance(event, CallStarted)
            bar.update(len(event.tokens))

        before, unsubscribe = engine.last_run, engine.subscribe(report, CallStarted)
        try:
            engine._whole(begin(engine, encoded, settings, keep))
        finally:
            engine.last_run = before  # this one has no answer to explain
            unsubscribe()
    return written[0]


def _check_options(settings: GenerateOptions) -> None:
    for name in ("prefill_answer", "score_prompt", "measure_loss", "schema", "context"):
        if getattr(settings, name):
            raise OptionError(
                f"{name} cannot be used when a context is saved, which has no answer: leave it out"
            )


def _beginning(engine: Engine, prompt: Prompt, settings: GenerateOptions) -> Encoded:
    """`prompt` with the tokens that are the same whatever follows."""
    dialect = dialect_of(engine.tokenizer)

    def encoded(prompt: Prompt, settings: GenerateOptions) -> Encoded:
        return encode(engine.tokenizer, prompt, settings, engine.config, dialect)

    between = "" if settings.raw else BREAK
    forms = [encoded(joined(prompt, each, between), settings) for each in CONTINUATIONS]
    first, rest = forms[0], forms[1:]
    tokens = first.tokens[: min(common_length(first.tokens, form.tokens) for form in rest)]
    text = first.text[: min(common_length(first.text, form.text) for form in rest)]
    if not tokens:
        raise OptionError(
            "the model's chat template lets no two prompts begin the same: a context cannot be "
            "kept for it"
        )
    return replace(encoded(prompt, settings), text=text, tokens=tokens)


def _write(
    engine: Engine, path: Path, prompt: Prompt, tokens: list[int], kv: KVCache,
    settings: GenerateOptions,
) -> Context:  # fmt: skip
    options, stamp = kind_of(engine, settings), engine.info.model_hash
    metadata = {
        "outlier_jupyter": str(VERSION),
        "model": engine.info.model,
        "model_hash": stamp,
        "tokens": json.dumps(tokens),
        "prompt": json.dumps(prompt),
        "options": json.dumps(options),
    }

    def write(file: BinaryIO) -> None:
        save_prompt_cache(file, kv, metadata)

    files.write_by(path, write, OptionError, "the context")
    return Context(path, prompt, tokens, path.stat().st_size, stamp, options)
