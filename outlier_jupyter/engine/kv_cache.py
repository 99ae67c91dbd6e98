"""KV caches: mlx-lm's own, plain, quantised or rotating, and those of earlier runs for `reuse_kv`.

Which kind a run gets, what mlx-lm cannot do with it, and whether it changed the output is known
here. The caches themselves, and the store that is asked by token ids, are mlx-lm's.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import (
    LRUPromptCache,
    RotatingKVCache,
    can_trim_prompt_cache,
    make_prompt_cache,
    trim_prompt_cache,
)

from ..errors import OptionError
from ..formatting import size_words
from ..options import GenerateOptions

KEPT = 4
"""Conversations whose KV cache is kept; the one used longest ago goes first."""

KVCache = list[Any]
"""One of mlx-lm's caches per layer, as `make_prompt_cache` gives them."""


class KVCaches:
    """The KV caches of one model.

    Attributes:
        bound: the most bytes that caches kept for reuse may take; those used longest ago go first.
    """

    def __init__(self, model: nn.Module, bound: int) -> None:
        self.running: KVCache = []
        self.bound = bound
        self._model = model
        self._kept = LRUPromptCache(max_size=KEPT, max_bytes=bound)

    @property
    def kept_nbytes(self) -> int:
        """Bytes of the caches kept for reuse."""
        return int(self._kept.nbytes)

    def start(self, tokens: list[int], asked: GenerateOptions) -> tuple[KVCache, list[int]]:
        """A KV cache to read `tokens` with, and the ids it lacks, at least one of them.

        Raises:
            OptionError: mlx-lm has no such cache for this model.
        """
        self._check(tokens, asked)
        self.running, rest = self._start(tokens, asked)
        return self.running, rest

    def _start(self, tokens: list[int], asked: GenerateOptions) -> tuple[KVCache, list[int]]:
        if asked.reuse_kv:
            kv, rest = self._kept.fetch_nearest_cache(_kind(asked), tokens)
            if kv is not None and not rest and can_trim_prompt_cache(kv):
                # All of it is held, but logits come only from reading: read the last id again.
                trim_prompt_cache(kv, 1)
                rest = tokens[-1:]
            if kv is not None and rest:
                return kv, rest
        return make_prompt_cache(self._model, asked.max_kv_size), tokens

    def keep(
        self, tokens: list[int], kv: KVCache, asked: GenerateOptions, whole: bool = True
    ) -> None:
        """Keep `kv`, which holds exactly `tokens`, for a later run on any thread.

        Args:
            whole: False after a run that was cut short: some layers may be one call ahead of
                the others then, and are brought back. What cannot be brought back is not kept.
        """
        if not tokens or not (whole or _bring_back(kv, len(tokens))):
            return
        mx.eval([layer.state for layer in kv])
        nbytes = sum(layer.nbytes for layer in kv)
        if nbytes > self.bound:
            warnings.warn(
                f"the KV cache of these {len(tokens):,} tokens is not kept for the next run: it "
                f"takes {size_words(nbytes)}, and kept_kv_gb allows {size_words(self.bound)}",
                stacklevel=2,
            )
            return
        self._kept.insert_cache(_kind(asked), tokens, kv)

    def end(self) -> None:
        """The run is over: its cache is kept, or nobody's."""
        self.running = []

    def release(self) -> None:
        """Let go of all of them, and of the model; nothing can be started after this."""
        self.running = []
        self._kept.trim_to(n_sequences=0)
        self._model = nn.Module()

    def _check(self, tokens: list[int], asked: GenerateOptions) -> None:
        own = hasattr(self._model, "make_cache")
        if asked.max_kv_size is not None and own:
            raise OptionError(
                f"max_kv_size={asked.max_kv_size} cannot be used: this model makes KV caches of "
                "its own kinds, and mlx-lm cannot bound them; leave it out"
            )
        if asked.kv_bits is None or len(tokens) + asked.max_tokens <= asked.quantized_kv_start:
            return
        fresh = make_prompt_cache(self._model, asked.max_kv_size)
        if any(isinstance(cache, RotatingKVCache) for cache in fresh):
            where, out = "for this model's sliding attention", "it"
            if asked.max_kv_size is not None:
                where, out = "with max_kv_size", "one"
            raise OptionError(
                f"kv_bits={asked.kv_bits} cannot be used {where}: mlx-lm cannot quantise a "
                f"rotating KV cache; leave {out} out"
            )
        if not any(hasattr(cache, "to_quantized") for cache in fresh):
            raise OptionError(
                f"kv_bits={asked.kv_bits} has no effect: mlx-lm can quantise none of this model's "
                "KV caches; leave it out"
            )


def _kind(asked: GenerateOptions) -> Hashable:
    """Caches of different kinds are not each other's beginning."""
    quantised = (asked.kv_bits, asked.kv_group_size, asked.quantized_kv_start)
    routing = (asked.mask, asked.boost, asked.force, asked.top_k, asked.router_temperature)
    return quantised if asked.kv_bits else None, asked.max_kv_size, routing


def changed_by(asked: GenerateOptions, length: int | None = None) -> list[str]:
    """Why the KV cache makes the output another than the model's own; empty when it does not.

    Args:
        length: how many tokens the run has read in all; None before that is known, and then the
            settings alone decide.
    """
    reasons = []
    start = asked.quantized_kv_start
    # What is quantised after the last token was read has changed nothing.
    if asked.kv_bits is not None and (length is None or length - 1 >= max(start, 1)):
        since = f" from token {start:,} on" if start else ""
        reasons.append(f"KV cache of {asked.kv_bits} bits{since}")
    if asked.max_kv_size is not None and (length is None or length > asked.max_kv_size):
        reasons.append(f"KV cache of the last {asked.max_kv_size:,} tokens")
    return reasons


def _bring_back(kv: KVCache, length: int) -> bool:
    """Have every layer hold `length` tokens; False where one cannot."""
    for layer in kv:
        ahead = getattr(layer, "offset", -1) - length
        if ahead < 0 or not layer.is_trimmable():
            return False
        layer.trim(ahead)
    return True
