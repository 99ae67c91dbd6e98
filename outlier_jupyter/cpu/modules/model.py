"""Around a model's native layers: the norm after the last, and a loop over all of them.

mlx-lm's own loop over its layers comes between two of them with arrays and calls whose code each
layer's weights may have driven from the processor's caches; 0.1 ms a layer or more. Here all layers
are told first where the token stands and where its key and value belong; then they run, one after
the other.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...families import known_as
from .arrays import as_rows
from .classes import native_class
from .decoder_layer import Norm, Stream, plans


class _FinalNorm:
    """What the norm after the last layer does: of one token, which lies in memory, at once."""

    _norm: Norm
    _stream: Stream

    def __call__(self, x: mx.array) -> mx.array:
        if x.shape[:2] == (1, 1) and x.dtype == mx.float32:
            return mx.array(self._norm(self._stream.rows(x))[None])
        return super().__call__(x)  # type: ignore[misc,no-any-return]  # the other base has it


class _Model:
    """What such a model does, without its head."""

    _norm: Norm

    def __call__(self, inputs: mx.array, cache: Any = None, *embedded: Any, **named: Any) -> Any:
        given = [*embedded, *named.values()]
        if inputs.shape == (1, 1) and cache is not None and all(each is None for each in given):
            found = self._decode(inputs, cache)
            if found is not None:
                return found
        return super().__call__(inputs, cache, *embedded, **named)  # type: ignore[misc]  # the other base has it

    def _decode(self, inputs: mx.array, cache: Any) -> mx.array | None:
        """inputs [1, 1] → [1, 1, width]; None, and nothing done, if a layer is not ready."""
        model: Any = self
        found = plans(model.layers)
        if found is None or len(cache) != len(found):
            return None
        if not all(plan.ready(each) for plan, each in zip(found, cache, strict=True)):
            return None
        x = as_rows(model.embed_tokens(inputs))
        for plan, each in zip(found, cache, strict=True):
            plan.begin(each)
        for plan in found:
            x = plan.pass_on(x)
        return mx.array(self._norm(x)[None])


def swap_model(model: nn.Module, stream: Stream) -> None:
    """Have the norm of `model` compute natively, if it comes after layers that all do.

    And have the whole of it decode so, if it is one that is known here.
    """
    norm = model.get("norm")
    if type(norm) is not nn.RMSNorm or not plans(model.get("layers") or ()):
        return
    native = Norm(norm)
    object.__setattr__(norm, "_norm", native)
    object.__setattr__(norm, "_stream", stream)
    norm.__class__ = native_class(_FinalNorm, nn.RMSNorm)
    if known_as(model, "model"):
        object.__setattr__(model, "_norm", native)
        model.__class__ = native_class(_Model, type(model))
