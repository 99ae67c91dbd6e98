"""KV caches: plain, quantised or rotating, and those of earlier runs for `reuse_kv`.

This module chooses a run's kind of cache, refuses what mlx-lm cannot do with it, and says whether
it changed the output. The caches, and the store that finds them by token ids, are mlx-lm's.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
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
"""Conversations whose KV cache is kept; the least recently used is evicted first."""

SEAM = 8
"""The last tokens of a context that another beginning of the text behind it may change."""

KVCache = list[Any]
"""One mlx-lm cache per layer, as `make_prompt_cache` returns them."""


class KVCaches:
    """The KV caches of one model.

    Attributes:
        running: the cache of the run under way.
        bound: the most bytes of kept caches; the least recently used is evicted first.
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

    def start(self, tokens: list[int], options: GenerateOptions) -> tuple[KVCache, list[int]]:
        """A KV cache for reading `tokens`, and the ids that it lacks, at least one.

        Raises:
            OptionError: mlx-lm has no such cache for this model.
        """
        self._check(tokens, options)
        self.running, rest = self._start(tokens, options)
        return self.running, rest

    def go_on(self, tokens: list[int], known: list[int], kv: KVCache) -> tuple[KVCache, list[int]]:
        """Go on from `kv`, which holds the tokens `known`; as `start`.

        Raises:
            OptionError: `tokens` do not begin with them.
        """
        length = min(common_length(tokens, known), len(tokens) - 1)
        missing = len(known) - length
        if missing > SEAM or (missing and not can_trim_prompt_cache(kv)):
            raise OptionError(
                f"this prompt leaves the context at its token {length + 1:,} of {len(known):,}: "
                "the chat template's options or tools are not those that it was saved with; use "
                "the same, or save the context again"
            )
        if missing:
            trim_prompt_cache(kv, missing)
        self.running = kv
        return kv, tokens[length:]

    def _start(self, tokens: list[int], options: GenerateOptions) -> tuple[KVCache, list[int]]:
        if options.reuse_kv and not options.score_prompt:  # what is not read is not scored
            kv, rest = self._kept.fetch_nearest_cache(kind_of(options), tokens)
            if kv is not None and not rest and can_trim_prompt_cache(kv):
                # All ids are cached, but logits come only from reading: read the last id again.
                trim_prompt_cache(kv, 1)
                rest = tokens[-1:]
            if kv is not None and rest:
                return kv, rest
        return make_prompt_cache(self._model, options.max_kv_size), tokens

    def keep(
        self, tokens: list[int], kv: KVCache, options: GenerateOptions, whole: bool = True
    ) -> None:
        """Keep `kv`, which holds exactly `tokens`, for a later run on any thread.

        Args:
            whole: False after a run that was cut short. Some layers may then be one call ahead of
                the others and are trimmed; a cache that cannot be trimmed is not kept.
        """
        if not tokens or not (whole or _trim(kv, len(tokens))):
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
        self._kept.insert_cache(kind_of(options), tokens, kv)

    def end(self) -> None:
        """Forget the cache of the run that ended."""
        self.running = []

    def release(self) -> None:
        """Free all caches and the model; no run can start after this."""
        self.running = []
        self._kept.trim_to(n_sequences=0)
        self._model = nn.Module()

    def _check(self, tokens: list[int], options: GenerateOptions) -> None:
        own = hasattr(self._model, "make_cache")
        if options.max_kv_size is not None and own:
            raise OptionError(
                f"max_kv_size={options.max_kv_size} cannot be used: this model makes KV caches of "
                "its own kinds, and mlx-lm cannot bound them; leave it out"
            )
        if (
            options.kv_bits is None
            or len(tokens) + options.max_tokens <= options.quantized_kv_start
        ):
            return
        fresh = make_prompt_cache(self._model, options.max_kv_size)
        if any(isinstance(cache, RotatingKVCache) for cache in fresh):
            where, out = "for this model's sliding attention", "it"
            if options.max_kv_size is not None:
                where, out = "with max_kv_size", "one"
            raise OptionError(
                f"kv_bits={options.kv_bits} cannot be used {where}: mlx-lm cannot quantise a "
                f"rotating KV cache; leave {out} out"
            )
        if not any(hasattr(cache, "to_quantized") for cache in fresh):
            raise OptionError(
                f"kv_bits={options.kv_bits} has no effect: mlx-lm can quantise none of this "
                "model's KV caches; leave it out"
            )


def kind_of(options: GenerateOptions) -> Hashable:
    """The key of caches that can be shared: same quantisation, bound and routing."""
    quantised = (options.kv_bits, options.kv_group_size, options.quantized_kv_start)
    routing = (
        options.mask,
        options.boost,
        options.force,
        options.top_k,
        options.router_temperature,
    )
    return quantised if options.kv_bits else None, options.max_kv_size, routing


def changed_by(options: GenerateOptions, length: int | None = None) -> list[str]:
    """Reasons why the KV cache changes the output; empty if it does not.

    Args:
        length: number of tokens that the run has read; None if unknown, and then the options
            alone decide.
    """
    reasons = []
    start = options.quantized_kv_start
    # Quantising after the last token was read changes nothing.
    if options.kv_bits is not None and (length is None or length - 1 >= max(start, 1)):
        since = f" from token {start:,} on" if start else ""
        reasons.append(f"KV cache of {options.kv_bits} bits{since}")
    if options.max_kv_size is not None and (length is None or length > options.max_kv_size):
        reasons.append(f"KV cache of the last {options.max_kv_size:,} tokens")
    return reasons


def common_length(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items two sequences begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _trim(kv: KVCache, length: int) -> bool:
    """Trim every layer to `length` tokens; False if one cannot be trimmed."""
    for layer in kv:
        ahead = getattr(layer, "offset", -1) - length
        if ahead < 0 or not layer.is_trimmable():
            return False
        layer.trim(ahead)
    return True
