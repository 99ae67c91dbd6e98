"""KV caches of earlier runs, for `reuse_kv`: mlx-lm's own store, asked by token ids."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import (
    LRUPromptCache,
    can_trim_prompt_cache,
    make_prompt_cache,
    trim_prompt_cache,
)

KEPT = 4
"""Conversations whose KV cache is kept; the one used longest ago goes first."""

KVCache = list[Any]
"""One of mlx-lm's caches per layer, as `make_prompt_cache` gives them."""


class KVCaches:
    """The KV caches of one model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept = LRUPromptCache(max_size=KEPT)

    def start(self, tokens: list[int], reuse: bool) -> tuple[KVCache, list[int]]:
        """A KV cache to read `tokens` with, and the ids it lacks, at least one of them."""
        if reuse:
            kv, rest = self._kept.fetch_nearest_cache("", tokens)
            if kv is not None and not rest and can_trim_prompt_cache(kv):
                # All of it is held, but logits come only from reading: read the last id again.
                trim_prompt_cache(kv, 1)
                rest = tokens[-1:]
            if kv is not None and rest:
                return kv, rest
        return make_prompt_cache(self._model), tokens

    def keep(self, tokens: list[int], kv: KVCache, whole: bool = True) -> None:
        """Keep `kv`, which holds exactly `tokens`, for a later run on any thread.

        Args:
            whole: False after a run that was cut short: some layers may be one call ahead of
                the others then, and are brought back. What cannot be brought back is not kept.
        """
        if not tokens or not (whole or _bring_back(kv, len(tokens))):
            return
        mx.eval([layer.state for layer in kv])
        self._kept.insert_cache("", tokens, kv)


def _bring_back(kv: KVCache, length: int) -> bool:
    """Have every layer hold `length` tokens; False where one cannot."""
    for layer in kv:
        ahead = getattr(layer, "offset", -1) - length
        if ahead < 0 or not layer.is_trimmable():
            return False
        layer.trim(ahead)
    return True
