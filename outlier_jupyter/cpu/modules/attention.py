"""Attention with kernels, from the activations to the output projection.

It repeats the arithmetic of the classes that `families` names; tests compare it with mlx-lm's.
Other calls (another mask, a quantised cache) run mlx-lm's code. The KV cache is mlx-lm's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...families import known_as
from ..kernels import (
    AppendKV,
    Attend,
    Chain,
    HeadRotation,
    Link,
    Matrix,
    Workspace,
    attend,
    norm_link,
    sigmoid_link,
)
from .arrays import F32s, Ids, as_rows
from .classes import native_class
from .kv_append import ALL, KVAppender, SeveralCaches, takes_floats, window_of
from .parts import Matrices, Projection
from .rotation import rotation_of
from .stored_type import stored_type

HEADS = ("n_heads", "num_heads", "num_attention_heads")
KV_HEADS = ("n_kv_heads", "num_key_value_heads")
SCALES = ("scale", "sm_scale")


class AttentionPlan:
    """One layer's attention: projections, norms, RoPE, KV cache, and a gate on its output.

    Args:
        module: of a known class, that `can_swap` accepts.

    Raises:
        KeyError: one of its linear layers is not native.
    """

    def __init__(self, module: Any, matrices: Matrices) -> None:
        parts = [matrices[id(module[name])] for name in ("q_proj", "k_proj", "v_proj")]
        self.output = Projection([matrices[id(module.o_proj)]])
        dtype = stored_type(module)
        assert dtype is not None, "only modules that can_swap accepts"
        self.appender = KVAppender(dtype)
        self.heads, self.kv_heads = _first(module, HEADS), _first(module, KV_HEADS)
        self.scale = float(_first(module, SCALES))
        self.width = parts[1].height // self.kv_heads
        self.wide = parts[2].height // self.kv_heads
        self.split = self.heads * self.width
        self.rotated = self.split + self.kv_heads * self.width
        self.gated = parts[0].height == 2 * self.split  # each head's queries, then its gate
        order = _gates_last(parts, self.heads) if self.gated else None
        self.project = Projection(parts, order)
        self.nbytes = self.project.nbytes + self.output.nbytes
        self.sinks = as_rows(module.sinks)[0].copy() if "sinks" in module else None
        norms = [module[name] for name in ("q_norm", "k_norm") if name in module]
        # A norm over all heads at once differs from one per head; it runs before the rotation.
        self.norms = [as_rows(norm.weight)[0].copy() for norm in norms]
        self.epsilon = float(norms[0].eps) if norms else 0.0
        self.each = bool(norms) and len(self.norms[0]) == self.width
        weights = None
        if self.each:
            counts = (self.heads, self.kv_heads)
            weights = np.concatenate(
                [np.tile(norm, (n, 1)) for norm, n in zip(self.norms, counts, strict=True)]
            )
        rotation = rotation_of(module.rope)
        self.rotate = HeadRotation(
            self.heads + self.kv_heads, self.width, *rotation, weights, self.epsilon
        )

    def decode(self, x: F32s, cache: Any) -> F32s:
        """x [1, width] → [1, width], with the token's key and value added to `cache`."""
        return self._mixed(x, cache, None)

    def prefill(self, x: F32s, cache: Any, window: int) -> F32s:
        """x [rows, width] → [rows, width]; each row sees `window` rows up to its own."""
        return self._mixed(x, cache, window)

    def several(self, x: F32s, caches: SeveralCaches) -> F32s:
        """x [rows, width] → [rows, width]: each prompt's rows, over its own cache."""
        found = self._normed(self.project(x))
        mixed = np.empty((len(x), self.heads * self.wide), np.float32)
        for rows, cache, appender in caches.parts(self.appender):
            window = None if rows.stop - rows.start == 1 else ALL
            mixed[rows] = self._attended(found[rows], cache, appender, window)
        return self.output(self._opened(mixed, found))

    def _mixed(self, x: F32s, cache: Any, window: int | None) -> F32s:
        """Several rows, or one with a cache that it is written into where that is safe."""
        found = self._normed(self.project(x))
        mixed = self._attended(found, cache, self.appender, window)
        return self.output(self._opened(mixed, found))

    def _attended(
        self, found: F32s, cache: Any, appender: KVAppender, window: int | None
    ) -> F32s:  # fmt: skip
        """Projections [rows, height], which are rotated in place → [rows, heads × value width]."""
        rows = len(found)
        self.rotate(found, cache.offset)
        queries = found[:, : self.split].reshape(rows, self.heads, self.width)
        ends = self.split, self.rotated, self.rotated + self.kv_heads * self.wide
        key, value = (
            found[:, a:b].reshape(rows, self.kv_heads, -1).transpose(1, 0, 2)
            for a, b in pairwise(ends)
        )
        if window is None:
            keys, values, tokens = appender.add(cache, key[:, 0], value[:, 0])
            mixed = attend(queries, keys, values, self.scale, self.sinks, tokens)
        else:
            keys, values = appender.extend(cache, key, value)
            mixed = attend(queries, keys, values, self.scale, self.sinks, window=window)
        return mixed.reshape(rows, -1)

    def links(self, x: F32s, out: F32s, memory: Workspace) -> list[Link]:
        """`decode` as links of a chain: x [width] → out [width]; `begin` sets the position."""
        links, self._token = self._links(x[None], out[None], memory)
        return links

    def links_of_rows(
        self, x: F32s, out: F32s, memory: Workspace
    ) -> tuple[list[Link], list[TokenAttention]]:
        """The same for a token of each of several prompts; each has a `begin` of its own."""
        return self._links(x, out, memory)

    def takes(self, cache: Any) -> bool:
        """As `Mixer.takes`."""
        return self.appender.owns(cache) or takes_floats(cache)

    def ready(self, cache: Any) -> bool:
        """As `Mixer.ready`."""
        return self.appender.owns(cache)

    def begin(self, chain: Chain, first: int, cache: Any) -> None:
        """As `Mixer.begin`."""
        self._token[0].begin(self.appender, cache)

    def _links(
        self, x: F32s, out: F32s, memory: Workspace
    ) -> tuple[list[Link], list[TokenAttention]]:
        """Of tokens that each have a cache of their own: x [rows, width] → out [rows, width]."""
        rows = len(x)
        found = memory.floats("found", rows * self.project.height).reshape(rows, -1)
        mixed = memory.floats("mixed", rows * self.heads * self.wide).reshape(rows, -1)
        tokens = [TokenAttention(self, *each) for each in zip(found, mixed, strict=True)]
        one = rows == 1
        links = self.project.links(x[0], found[0]) if one else self.project.links(x, found)
        for token in tokens:
            links += token.links
        links += self.output.links(mixed[0], out[0]) if one else self.output.links(mixed, out)
        return links, tokens

    def _normed(self, found: F32s) -> F32s:
        """`found` [rows, height], with norms over all heads at once applied in place."""
        if self.norms and not self.each:
            parts = found[:, : self.split], found[:, self.split : self.rotated]
            for part, weight in zip(parts, self.norms, strict=True):
                squares = np.mean(part * part, axis=1, keepdims=True)
                part *= weight / np.sqrt(squares + self.epsilon)
        return found

    def _opened(self, mixed: F32s, found: F32s) -> F32s:
        """`mixed` [rows, heads × value width], times the sigmoid of its gate if it has one."""
        if self.gated:
            mixed /= 1 + np.exp(-found[:, -mixed.shape[1] :])
        return mixed


class TokenAttention:
    """What a token computes between the projections, as links of a chain.

    Args:
        found: float32 [height], its queries, keys and values.
        mixed: float32 [heads × value width], where its result goes.

    Attributes:
        links: call `begin` before they run.
    """

    def __init__(self, plan: AttentionPlan, found: F32s, mixed: F32s) -> None:
        self.links: list[Link] = []
        if plan.norms and not plan.each:
            parts = found[: plan.split], found[plan.split : plan.rotated]
            for part, weight in zip(parts, plan.norms, strict=True):
                self.links.append(norm_link(part, weight, plan.epsilon, part))
        self._rotate, self._rotated = plan.rotate, plan.rotate.link(found[: plan.rotated])
        kind = plan.appender.kind
        self._append = AppendKV(found[plan.split :], plan.kv_heads, plan.width, plan.wide, kind)
        self._attend = Attend(
            found, mixed, plan.heads, plan.kv_heads, plan.width, kind, plan.scale, plan.sinks
        )
        self.links += [self._rotated, self._append.link, self._attend.link]
        if plan.gated:
            self.links.append(sigmoid_link(found[-mixed.size :], mixed, mixed))

    def begin(self, appender: KVAppender, cache: Any) -> None:
        """Reserve the token's place in a `ready` cache."""
        place = appender.reserve(cache)
        assert place is not None, "only caches that are ready"
        self._rotate.at(place.position, self._rotated)
        self._append.append_to(place.keys, place.values, place.at)
        self._attend.over(place.keys, place.values, place.tokens)


def _gates_last(parts: list[Matrix], heads: int) -> Ids:
    """The rows of q, k and v, with each head's gate moved from behind its queries to the end."""
    total = sum(part.height for part in parts)
    queries = np.arange(parts[0].height).reshape(heads, 2, -1)
    rest = np.arange(parts[0].height, total)
    return np.concatenate([queries[:, 0].ravel(), rest, queries[:, 1].ravel()])


class _Attention:
    """The native behaviour of an attention module."""

    _plan: AttentionPlan

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        if isinstance(cache, SeveralCaches):
            return mx.array(self._plan.several(as_rows(x), cache)[None])
        if len(x) == 1 and takes_floats(cache):
            if mask is None and x.shape[1] == 1:
                return mx.array(self._plan.decode(as_rows(x), cache)[None])
            window = window_of(mask, cache, x.shape[1])
            if window is not None:
                return mx.array(self._plan.prefill(as_rows(x), cache, window)[None])
        return super().__call__(x, mask, cache)  # type: ignore[misc,no-any-return]  # the other base has it


def can_swap(module: nn.Module) -> bool:
    """Whether the module is an attention of a known class, with a known RoPE."""
    return known_as(module, "attention") is not None and stored_type(module) is not None


def swap_attention(module: Any, matrices: Matrices) -> None:
    """Make an attention module compute natively, if its linear layers do."""
    try:
        object.__setattr__(module, "_plan", AttentionPlan(module, matrices))
    except KeyError:  # in a format without a kernel
        return
    module.__class__ = native_class(_Attention, type(module))


def _first(module: Any, names: tuple[str, ...]) -> Any:
    return next(getattr(module, name) for name in names if hasattr(module, name))
