"""Gated delta nets with kernels: projections, a short convolution, the delta rule, a gated norm.

The cache stays mlx-lm's `ArraysCache`, but its arrays are replaced by some that nothing else
shares, so that a token may be written into their memory.
"""

from __future__ import annotations

import weakref
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import ArraysCache

from ...families import known_as
from ..kernels import Chain, Convolution, DeltaRule, Link, Workspace, state_places
from .arrays import F32s, Ids, as_rows, view
from .classes import native_class
from .parts import Matrices, Projection


class _Owned(mx.array):
    """An array whose memory is written to, so that a copy of it must be a real one."""

    __slots__ = ()

    def __copy__(self) -> mx.array:
        return mx.array(view(self))

    def __deepcopy__(self, memo: Any) -> mx.array:
        return mx.array(view(self))


class RecurrentState:
    """The arrays of one layer's cache, in memory that its kernels may write to.

    Args:
        shapes: of the arrays of a cache for one sequence.
    """

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._cache: weakref.ref[ArraysCache] | None = None  # weak: freed with a run
        self._arrays: list[mx.array] = []
        self.addresses: list[int] = []

    def takes(self, cache: Any) -> bool:
        """Whether a cache is for one sequence without padding, and float32 or still empty."""
        return (
            type(cache) is ArraysCache
            and cache.lengths is None
            and cache.left_padding is None
            and len(cache.cache) == len(self._shapes)
            and all(
                each is None or (each.shape == shape and each.dtype == mx.float32)
                for each, shape in zip(cache.cache, self._shapes, strict=True)
            )
        )

    def own(self, cache: ArraysCache) -> None:
        """Make `addresses` those of the arrays of `cache`, replacing them if others share them."""
        known = self._cache is not None and self._cache() is cache
        if known and all(a is b for a, b in zip(cache.cache, self._arrays, strict=True)):
            return
        found = []
        for each, shape in zip(cache.cache, self._shapes, strict=True):
            array = mx.array(np.zeros(shape, np.float32) if each is None else view(each))
            mx.eval(array)
            array.__class__ = _Owned
            found.append(array)
        cache.cache[:] = found
        self._cache, self._arrays = weakref.ref(cache, self._forget), found
        self.addresses = [int(view(array).ctypes.data) for array in found]

    def _forget(self, cache: weakref.ref[ArraysCache]) -> None:
        if cache is self._cache:
            self._arrays, self.addresses = [], []


class DeltaNet:
    """One layer's gated delta net: a `Mixer`.

    Args:
        module: qwen3_next's or qwen3_5's, or Kimi's delta attention, whose columns decay apart and
            whose decay and gate are products of two small matrices.

    Raises:
        KeyError: one of its linear layers is not native.
    """

    def __init__(self, module: Any, matrices: Matrices) -> None:
        self._kimi = "f_a_proj" in module
        if self._kimi:
            heads = key_heads = module.num_heads
            width = wide = module.head_dim
            convolutions = [module[f"{name}_conv"].conv for name in "qkv"]
        else:
            heads, key_heads = module.num_v_heads, module.num_k_heads
            width, wide = module.head_k_dim, module.head_v_dim
            convolutions = [module.conv1d]
        names, order = _projections(module, heads, key_heads, width, wide)
        self._project = Projection([matrices[id(module[name])] for name in names], order)
        self._inner = [Projection([matrices[id(module[name])]]) for name in ("f_b_proj", "g_b_proj")
                       if name in module]  # fmt: skip
        output = module.o_proj if self._kimi else module.out_proj
        self._output = Projection([matrices[id(output)]])
        self.nbytes = sum(each.nbytes for each in (self._project, *self._inner, self._output))
        # [channels, taps, 1] in MLX; here a row for each tap.
        self._convolutions = [Convolution(as_rows(each.weight[..., 0]).T) for each in convolutions]
        self._mixed = sum(each.channels for each in self._convolutions)
        sizes = [wide * heads, heads, heads] if not self._kimi else [heads, width, width]
        self._ends = np.cumsum([self._mixed, *sizes]).tolist()
        norm = module.o_norm if self._kimi else module.norm
        self._rule = DeltaRule(
            heads, key_heads, width, wide, np.exp(_flat(module.A_log)), _flat(module.dt_bias),
            _flat(norm.weight), float(norm.eps), swish=not self._kimi,
        )  # fmt: skip
        self._read = heads * wide
        past = [(1, len(each.taps) - 1, each.channels) for each in self._convolutions]
        self._state = RecurrentState([*past, (1, heads, wide, width)])
        self._links: list[Link] = []

    def links(self, x: F32s, out: F32s, memory: Workspace) -> list[Link]:
        """As `Mixer.links`."""
        found = memory.floats("found", self._project.height)
        mixed, read = memory.floats("convolved", self._mixed), memory.floats("mixed", self._read)
        first, second, third = self._parts(found[None])
        before = self._project.links(x, found)
        if self._kimi:
            decay, gate = memory.floats("decay", self._read), memory.floats("gate", self._read)
            for each, source, into in zip(self._inner, (second, third), (decay, gate), strict=True):
                before += each.links(source[0], into)
            beta = first[0]
        else:
            gate, beta, decay = first[0], second[0], third[0]
        self._links, start = [], 0
        for convolution in self._convolutions:
            end = start + convolution.channels
            self._links.append(convolution.link(found[start:end], mixed[start:end]))
            start = end
        self._links.append(self._rule.link(mixed, decay, beta, gate, read))
        return [*before, *self._links, *self._output.links(read, out)]

    def takes(self, cache: Any) -> bool:
        """As `Mixer.takes`."""
        return self._state.takes(cache)

    def ready(self, cache: Any) -> bool:
        """As `Mixer.ready`."""
        return self._state.takes(cache)

    def begin(self, chain: Chain, first: int, cache: Any) -> None:
        """As `Mixer.begin`."""
        self._state.own(cache)
        for each, place, address in zip(
            self._links, state_places(len(self._links)), self._state.addresses, strict=True
        ):
            each.arguments[place] = address

    def decode(self, x: F32s, cache: Any) -> F32s:
        """x [rows, width] → [rows, width], the tokens that follow those in `cache`."""
        self._state.own(cache)
        found = self._project(x)
        mixed = np.empty((len(x), self._mixed), np.float32)
        start, (*pasts, state) = 0, self._state.addresses
        for convolution, past in zip(self._convolutions, pasts, strict=True):
            end = start + convolution.channels
            convolution.run(found[:, start:end], past, mixed[:, start:end])
            start = end
        first, second, third = self._parts(found)
        if self._kimi:
            decay, gate = (
                each(np.ascontiguousarray(source))
                for each, source in zip(self._inner, (second, third), strict=True)
            )
            beta = first
        else:
            gate, beta, decay = first, second, third
        read = np.empty((len(x), self._read), np.float32)
        self._rule.run(mixed, decay, beta, gate, state, read)
        return self._output(read)

    def _parts(self, found: F32s) -> list[F32s]:
        """What follows the convolution's input in `found` [rows, height]."""
        return [found[:, a:b] for a, b in zip(self._ends, self._ends[1:], strict=False)]


class _DeltaNet:
    """The native behaviour of a gated delta net."""

    _plan: DeltaNet

    def __call__(self, inputs: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        if mask is None and len(inputs) == 1 and self._plan.takes(cache):
            return mx.array(self._plan.decode(as_rows(inputs), cache)[None])
        return super().__call__(inputs, mask, cache)  # type: ignore[misc,no-any-return]  # the other base has it


def can_swap(module: nn.Module) -> bool:
    """Whether the module is a gated delta net of a known class."""
    return known_as(module, "delta") is not None


def kernels_of(module: Any) -> tuple[int, bool, bool]:
    """What the kernels of a gated delta net are compiled for: `for_delta`'s arguments."""
    kimi = "f_a_proj" in module
    convolution = module.q_conv.conv if kimi else module.conv1d
    return convolution.weight.shape[1], kimi, not kimi


def swap_delta(module: Any, matrices: Matrices) -> None:
    """Make a gated delta net compute natively, if its linear layers do."""
    try:
        object.__setattr__(module, "_plan", DeltaNet(module, matrices))
    except KeyError:  # in a format without a kernel
        return
    module.__class__ = native_class(_DeltaNet, type(module))


def _flat(array: mx.array) -> F32s:
    found: F32s = as_rows(array.reshape(1, -1))[0].copy()
    return found


def _projections(
    module: Any, heads: int, key_heads: int, width: int, wide: int
) -> tuple[list[str], Ids | None]:
    """The linear layers of the block's input, and the order of their rows: q, k, v, then others."""
    if "f_a_proj" in module:
        return ["q_proj", "k_proj", "v_proj", "b_proj", "f_a_proj", "g_a_proj"], None
    if "in_proj_qkv" in module:
        return [f"in_proj_{name}" for name in ("qkv", "z", "b", "a")], None
    # qwen3_next has all of a key head's rows together: q, k, v, z; and apart from them b, a.
    shared = heads // key_heads
    sizes = [width, width, shared * wide, shared * wide]
    rows = np.arange(key_heads * sum(sizes)).reshape(key_heads, -1)
    small = rows.size + np.arange(2 * heads).reshape(key_heads, -1)
    parts = [*np.split(rows, np.cumsum(sizes)[:-1], axis=1), *np.split(small, 2, axis=1)]
    return ["in_proj_qkvz", "in_proj_ba"], np.concatenate([part.ravel() for part in parts])
