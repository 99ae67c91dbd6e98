"""The KV caches of several prompts: each its own, or all as mlx-lm's batch caches.

Where compiled kernels compute all layers, each prompt keeps its own: its tokens follow the others'
in a call, without padding, and joining and leaving copies nothing. Elsewhere they are merged into
mlx-lm's batch caches. Sequences of such a cache end in the same column, and shorter ones begin with
padding, which masks exclude. Several prompts of different lengths are read with padding after them;
`finalize` then moves it before them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache

from ..cpu.modules import several_caches
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


class Laid(NamedTuple):
    """The tokens of a call.

    Attributes:
        tokens: as the model receives them, [sequences, tokens].
        spans: where each prompt's are, counted through all sequences; the others are padding.
    """

    tokens: list[list[int]]
    spans: list[slice]


class BatchKV:
    """The KV caches of `count` prompts, merged.

    Args:
        each: one per prompt; they must not be used any more.

    Attributes:
        layers: what the model receives as its cache.
    """

    def __init__(self, each: Sequence[Layers]) -> None:
        self.count = len(each)
        self.layers: Layers = each[0] if self.count == 1 else _merged(each)

    def lay(self, pieces: Sequence[list[int]]) -> Laid:
        """Tokens of each prompt, the shorter pieces padded."""
        width = max(map(len, pieces))
        spans = [slice(n * width, n * width + len(piece)) for n, piece in enumerate(pieces)]
        return Laid([piece + [0] * (width - len(piece)) for piece in pieces], spans)

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

    def join(self, other: Any) -> BatchKV:
        """Both, which are of one kind, together; neither must be used any more."""
        mine, more = (_merged([kv.layers]) if kv.count == 1 else kv.layers for kv in (self, other))
        for layer, another in zip(mine, more, strict=True):
            layer.extend(another)
        self.layers, self.count = mine, self.count + other.count
        return self

    def start(self) -> Callable[[], object] | None:
        """What forgets the tokens of a call that fails in some layer; None if that cannot be."""
        if any(type(layer) not in (KVCache, BatchKVCache) for layer in self.layers):
            return None
        return partial(_rewind, [(layer, int(layer.size())) for layer in self.layers])


class SeparateKV:
    """The KV caches of `count` prompts, each its own; with the methods of `BatchKV`.

    Args:
        each: one per prompt; they must not be used any more.
        layers: the same as `cpu.modules.several_caches` makes them.
    """

    def __init__(self, each: Sequence[Layers], layers: Layers) -> None:
        self._each, self._several = list(each), layers

    @property
    def count(self) -> int:
        """How many prompts there are."""
        return len(self._each)

    @property
    def layers(self) -> Layers:
        """What the model receives as its cache."""
        return self._each[0] if self.count == 1 else self._several

    def lay(self, pieces: Sequence[list[int]]) -> Laid:
        """Tokens of each prompt, one after the other."""
        ends = [0, *accumulate(map(len, pieces))]
        self._several[0].lengths[:] = [len(piece) for piece in pieces]
        return Laid([[*chain(*pieces)]], [slice(*pair) for pair in pairwise(ends)])

    def prepare(self, lengths: Sequence[int]) -> bool:
        """As of `BatchKV`: there is no padding."""
        return False

    def finalize(self) -> None:
        """As of `BatchKV`."""

    def evaluate(self, logits: mx.array | None = None) -> None:
        """As of `BatchKV`."""
        mx.eval(logits, [layer.state for layer in self._several])

    def split(self) -> list[Layers]:
        """As of `BatchKV`."""
        return self._each

    def extract(self, row: int) -> Layers:
        """As of `BatchKV`, not copied."""
        return self._each[row]

    def keep(self, rows: Sequence[int]) -> None:
        """As of `BatchKV`."""
        self._each = [self._each[row] for row in rows]
        for layer in self._several:
            layer.keep(rows)

    def join(self, other: Any) -> SeparateKV:
        """As of `BatchKV`."""
        self._each += other._each
        for layer, another in zip(self._several, other._several, strict=True):
            layer.extend(another)
        return self

    def start(self) -> Callable[[], object]:
        """As of `BatchKV`."""
        return partial(_rewind, [(layer, layer.offset) for each in self._each for layer in each])


Several = BatchKV | SeparateKV


def kv_of(model: nn.Module, each: Sequence[Layers]) -> Several:
    """The KV caches of prompts that share the calls of `model`."""
    layers = several_caches(model, each)
    return BatchKV(each) if layers is None else SeparateKV(each, layers)


def _rewind(sizes: Sequence[tuple[Any, int]]) -> None:
    for layer, size in sizes:
        layer.trim(int(layer.size()) - size)


def _merged(each: Sequence[Layers]) -> Layers:
    return [parts[0].merge(list(parts)) for parts in zip(*each, strict=True)]
