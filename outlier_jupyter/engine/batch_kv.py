"""The KV caches of several prompts as mlx-lm's batch caches; of one prompt as its own caches.

Sequences of a batch cache end in the same column, and shorter ones begin with padding, which masks
exclude. Several prompts of different lengths are read with padding after them; `finalize` then
moves it before them.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache

from .kv_cache import KVCache as Layers

PADDING_COUNTS = ("bailing_moe_linear", "jamba", "nemotron_h")
"""Types whose code in mlx-lm takes padding into a state: their prompts are read one by one."""
NEVER_MERGED = ("longcat_flash_ngram",)
"""Types whose state in mlx-lm differs in shape from prompt to prompt."""


def unmergeable(model_type: str, layers: Layers) -> str:
    """The name of a cache that mlx-lm cannot merge with those of other prompts; "" if none."""
    if model_type in NEVER_MERGED:
        return f"of {model_type}"
    for layer in layers:
        parts = layer.caches if isinstance(layer, CacheList) else [layer]
        for part in parts:
            # A batch of rotating caches evicts the first tokens, which `keep` pins.
            if not hasattr(part, "merge") or bool(getattr(part, "keep", None)):
                return type(part).__name__
    return ""


class BatchKV:
    """The KV caches of `count` prompts.

    Args:
        each: one per prompt; they must not be used any more.

    Attributes:
        layers: what the model receives as its cache.
    """

    def __init__(self, each: Sequence[Layers]) -> None:
        self.count = len(each)
        self.layers: Layers = each[0] if self.count == 1 else _merged(each)

    def prepare(self, lengths: Sequence[int]) -> bool:
        """Announce so many tokens of each prompt; whether there is padding, and so `finalize`."""
        padding = [max(lengths) - length for length in lengths]
        if not any(padding):
            return False
        for layer in self.layers:
            layer.prepare(lengths=list(lengths), right_padding=padding)
        return True

    def finalize(self) -> None:
        """Move the padding before the prompts, once all are read."""
        for layer in self.layers:
            layer.finalize()
        self.evaluate()

    def evaluate(self, logits: mx.array | None = None) -> None:
        """Compute what was written last, and `logits` with it."""
        mx.eval(logits, [layer.state for layer in self.layers])

    def split(self) -> list[Layers]:
        """The prompts' own caches; this object must not be used any more."""
        if self.count == 1:
            return [self.layers]
        return [[layer.extract(row) for layer in self.layers] for row in range(self.count)]

    def extract(self, row: int) -> Layers:
        """The caches of one prompt, copied if there are others."""
        return self.layers if self.count == 1 else [layer.extract(row) for layer in self.layers]

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all prompts but these."""
        if len(rows) == self.count:
            return
        if len(rows) == 1:
            self.layers = self.extract(rows[0])
        elif rows:
            for layer in self.layers:
                layer.filter(list(rows))
        self.count = len(rows)
        if not rows:
            self.layers = []

    def join(self, other: BatchKV) -> BatchKV:
        """Both together; neither must be used any more."""
        if not self.count:
            return other
        mine, more = (_merged([kv.layers]) if kv.count == 1 else kv.layers for kv in (self, other))
        for layer, another in zip(mine, more, strict=True):
            layer.extend(another)
        self.layers, self.count = mine, self.count + other.count
        return self

    def sizes(self) -> list[int] | None:
        """The tokens in each layer, for `rewind`; None if a cache cannot go back."""
        if any(type(layer) not in (KVCache, BatchKVCache) for layer in self.layers):
            return None
        return [int(layer.size()) for layer in self.layers]

    def rewind(self, sizes: Sequence[int]) -> None:
        """Forget the tokens of a call that failed in some layer."""
        for layer, size in zip(self.layers, sizes, strict=True):
            layer.trim(int(layer.size()) - size)


def _merged(each: Sequence[Layers]) -> Layers:
    return [parts[0].merge(list(parts)) for parts in zip(*each, strict=True)]
