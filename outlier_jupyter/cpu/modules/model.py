"""A native loop over a model's native layers, and the norm after the last.

mlx-lm's loop runs Python and MLX code between two layers, which each layer's weights may have
evicted from the processor's caches: 0.1 ms per layer or more. Here all layers first receive the
token's position and its place in the KV cache; then they run, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import KVCache

from ...families import known_as
from .arrays import as_rows
from .classes import native_class
from .decoder_layer import Norm, TokenActivations, plans
from .kv_append import SeveralCaches
from .rows_plan import RowsPlan


class _FinalNorm:
    """The native behaviour of the norm after the last layer, for one token."""

    _norm: Norm
    _token: TokenActivations

    def __call__(self, x: mx.array) -> mx.array:
        if x.shape[:2] == (1, 1) and x.dtype == mx.float32:
            return mx.array(self._norm(self._token.rows(x))[None])
        return super().__call__(x)  # type: ignore[misc,no-any-return]  # the other base has it


class _Model:
    """The native behaviour of a model without its head."""

    _norm: Norm

    def __call__(self, inputs: mx.array, *args: Any, **named: Any) -> Any:
        options = [each for each in (*args, *named.values()) if each is not None]
        # The list of caches, and no mask or embeddings: their order differs from model to model.
        if inputs.shape == (1, 1) and len(options) == 1 and isinstance(options[0], list):
            found = self._decode(inputs, options[0])
            if found is not None:
                return found
        if len(inputs) == 1 and len(options) == 1 and isinstance(options[0], list):
            found = self._decode_rows(inputs, options[0])
            if found is not None:
                return found
        return super().__call__(inputs, *args, **named)  # type: ignore[misc]  # the other base has it

    def several_caches(self, caches: Sequence[Sequence[Any]]) -> list[SeveralCaches] | None:
        """As the function of `cpu.modules`."""
        model: Any = self
        found = plans(model.layers)
        if found is None or any(plan.rows(1) is None for plan in found):
            return None
        if any(type(layer) is not KVCache for each in caches for layer in each):
            return None
        lengths = [1] * len(caches)
        return [SeveralCaches(layers, lengths) for layers in zip(*caches, strict=True)]

    def _decode_rows(self, inputs: mx.array, caches: Any) -> mx.array | None:
        """A token of each of several prompts, [1, prompts] → [1, prompts, width]; or None."""
        model: Any = self
        count, layers = inputs.shape[1], plans(model.layers)
        if layers is None or len(caches) != len(layers):
            return None
        if not isinstance(caches[0], SeveralCaches) or caches[0].lengths != [1] * count:
            return None
        rows = [plan.rows(count) for plan in layers]
        whole = [plan for plan in rows if plan is not None]
        if len(whole) < len(rows) or not all(map(RowsPlan.make_room, whole, caches)):
            return None
        x = as_rows(model.embed_tokens(inputs))
        for plan, each in zip(whole, caches, strict=True):
            plan.reserve(each)
        for plan in whole:
            x = plan.decode(x)
        return mx.array(np.concatenate([self._norm(row[None]) for row in x])[None])

    def _decode(self, inputs: mx.array, cache: Any) -> mx.array | None:
        """inputs [1, 1] → [1, 1, width]; None, with nothing changed, if a layer cannot reserve."""
        model: Any = self
        found = plans(model.layers)
        if found is None or len(cache) != len(found):
            return None
        if not all(plan.can_reserve(each) for plan, each in zip(found, cache, strict=True)):
            return None
        x = as_rows(model.embed_tokens(inputs))
        for plan, each in zip(found, cache, strict=True):
            plan.reserve(each)
        return mx.array(self._norm(found[0].decode_reserved(x, len(found)))[None])


def swap_model(model: nn.Module, token: TokenActivations) -> None:
    """Make the final norm native if all layers are, and the loop if the model's class is known."""
    norm = model.get("norm")
    if type(norm) is not nn.RMSNorm or not plans(model.get("layers") or ()):
        return
    native = Norm(norm)
    object.__setattr__(norm, "_norm", native)
    object.__setattr__(norm, "_token", token)
    norm.__class__ = native_class(_FinalNorm, nn.RMSNorm)
    if known_as(model, "model"):
        object.__setattr__(model, "_norm", native)
        model.__class__ = native_class(_Model, type(model))
