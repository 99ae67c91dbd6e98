"""A whole decoder layer for one new token, computed without MLX.

A layer of a class that `families` names adds two parts to its input, each after a norm: a token
mixer, and experts or an MLP. Where both are links, a token goes through the layer in one kernel
chain, up to experts that must be read. In MLX each cut of the graph costs an evaluation, more than
the small operations between the cuts compute. The router tap receives the weights; a token's ids
are in the order of their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...families import known_as, names
from ...residency.token_arrays import IDS
from ..kernels import RUNNING, Chain, Link, Workspace, blend_link, norm_link
from ..kernels.token_loop import ROUTED
from .arrays import F32s, Ids, as_rows
from .attention import AttentionPlan
from .classes import native_class
from .latent_attention import LatentAttention
from .parts import Foreign, GatedMLP, Matrices, Mixer, norm_of
from .routers import ExpertChoice, can_route
from .rows_plan import RowsPlan
from .stored_type import can_attend_latents
from .token_loop import TokenLoop


class TokenActivations:
    """One token's activations, passed between native layers without MLX."""

    def __init__(self) -> None:
        self._array: mx.array | None = None
        self._rows = np.empty((1, 0), np.float32)

    def matches(self, x: mx.array) -> bool:
        """Whether x is one token's activations."""
        return x is self._array or bool(x.shape[:2] == (1, 1))

    def rows(self, x: mx.array) -> F32s:
        """x [1, 1, width] as [1, width]."""
        return self._rows if x is self._array else as_rows(x)

    def array(self, rows: F32s) -> mx.array:
        """rows [1, width], which must stay unchanged, as [1, 1, width]."""
        self._rows, self._array = rows, mx.array(rows[None])
        return self._array


class Norm:
    """An RMS norm of one row, outside a chain."""

    def __init__(self, module: Any) -> None:
        weight, epsilon = norm_of(module)
        self._x, self._out = np.empty_like(weight), np.empty_like(weight)
        self._chain = Chain([norm_link(self._x, weight, epsilon, self._out)], 0)

    def __call__(self, x: F32s) -> F32s:
        """x [1, width] → its RMS norm, [1, width]."""
        with RUNNING:
            self._x[:] = x[0]
            self._chain.run()
            found: F32s = self._out[None].copy()
        return found


class LayerPlan:
    """One layer's parts and kernel chains.

    Args:
        mixer: the first part.
        block: the second part's module.
        router, shared: its router and its shared expert, or the MLP of a dense layer; with
            neither, MLX computes it.
        token: the model's.
        memory: shared by the model's layers, which run one after the other.

    Attributes:
        before: the chain up to the choice of experts; of a dense layer, all of it.
        beside: the chain of the shared expert, or None.
        after: the chain that adds the weighted outputs of experts and shared expert.
        normed, outputs: the experts' input [width] and their outputs [k, width].
        ids: the chosen experts, [k].
        k: how many experts it chooses; 0 in a layer without.
        loop, number: what runs the layer, and its number there.
    """

    loop: TokenLoop
    number: int

    def __init__(
        self, layer: Any, mixer: Mixer, block: Any, router: ExpertChoice | None,
        shared: GatedMLP | None, token: TokenActivations, memory: Workspace,
    ) -> None:  # fmt: skip
        self.token, self.mixer = token, mixer
        self._router, self._block = router, block
        before, after = norm_of(layer.input_layernorm), norm_of(layer.post_attention_layernorm)
        self._rows: dict[int, RowsPlan] = {}
        self._parts = (before, after), router, shared, memory
        width = len(before[0])
        self._x, self.normed, self._added = (
            memory.floats(name, width) for name in ("x", "normed", "added")
        )
        self._row = self._x[None]
        links = [
            norm_link(self._x, *before, self.normed),
            *mixer.links(self.normed, self._added, memory),
        ]
        self._attended = len(links)
        links.append(norm_link(self._x, *after, self.normed, self._added))
        shared_links: list[Link] = []
        more = logit = None
        nbytes = mixer.nbytes
        if shared is not None:
            more = memory.floats("more", width)
            shared_links, logit = shared.links(self.normed, more, memory)
        self.k = 0 if router is None else router.k
        self.beside: Chain | None = None
        if router is not None:
            self.experts = paged_in(block)
            log, number = self.experts.tap.logs.of(self.k), self.experts.layer
            self.ids, self._weights = log.rows[number, IDS], log.weights[number]
            self.outputs = memory.floats("outputs", self.k * width).reshape(self.k, width)
            links += router.links(self.normed, self.ids, self._weights, memory)
            blending = blend_link(self._x, self._weights, self.outputs, more, logit)
            self.after = Chain([blending], 0)
            nbytes += router.nbytes
            if shared is not None:
                self.beside = Chain(shared_links, shared.nbytes)
        elif shared is not None:
            none = np.empty(0, np.float32)
            links += [*shared_links, blend_link(self._x, none, none, more, logit)]
            nbytes += shared.nbytes
        self._native = router is not None or shared is not None
        self.before = Chain(links, nbytes)

    def can_decode(self, cache: Any) -> bool:
        """Whether a token can be decoded with this cache, and the router is unchanged."""
        return self._chooses_as_made and self.mixer.takes(cache)

    @property
    def _chooses_as_made(self) -> bool:
        return self._router is None or self._router.unchanged

    def can_reserve(self, cache: Any) -> bool:
        """Whether kernels alone can compute up to the experts: the cache has room."""
        return self._native and self._chooses_as_made and self.mixer.ready(cache)

    def reserve(self, cache: Any) -> None:
        """Reserve the token's place in the cache, if `can_reserve`; then `decode_reserved`."""
        self.mixer.begin(self.before, 1, cache)

    def rows(self, count: int) -> RowsPlan | None:
        """The layer for a token of each of `count` prompts; None if it is not made for that."""
        if not (self._native and isinstance(self.mixer, AttentionPlan) and self._chooses_as_made):
            return None
        if count not in self._rows:
            experts = self.experts if self.k else None
            self._rows[count] = RowsPlan(count, self.mixer, experts, *self._parts)
        return self._rows[count]

    def decode_reserved(self, x: F32s, layers: int) -> F32s:
        """As `decode` of this and the next layers, `layers` in all, after `reserve` of each."""
        self._take(x)
        self.loop.run(self.number, self.number + layers)
        return self._row

    def decode(self, x: F32s, cache: Any) -> F32s:
        """x [1, width] → [1, width], unchanged until the next layer runs."""
        self._mix(x, cache)
        if self.k:
            self.loop.run(self.number, self.number + 1, ROUTED)
        elif not self._native:
            self._x += as_rows(self._block(mx.array(self.normed[None, None])))[0]
        return self._row

    def run_before(self) -> None:
        """Compute what comes before the experts, after `reserve`."""
        with RUNNING:
            self.before.run()

    def run_experts(self) -> None:
        """Have the switch compute the experts; compute the shared expert, and their sum."""
        self.outputs[:] = self.experts.decode(
            self.normed[None], self.ids[None].copy(), self._weights[None],
            None if self.beside is None else self.run_shared,
        )[0]  # fmt: skip
        with RUNNING:
            self.after.run()

    def run_shared(self) -> None:
        """Compute the shared expert, while experts are read."""
        assert self.beside is not None
        with RUNNING:
            self.beside.run()

    def compute(self, slots: Ids) -> None:
        """Compute the experts in these slots, [k], and the layer's sum."""
        self.outputs[:] = self.experts.inner.compute(self.normed[None], slots[None])[0]
        with RUNNING:
            self.after.run()

    def _take(self, x: F32s) -> None:
        """Copy x [1, width] to the chain's input, unless the previous layer wrote it there."""
        if x.base is not self._x:
            self._x[:] = x[0]

    def _mix(self, x: F32s, cache: Any) -> None:
        """Compute what comes before the experts: norms, mixer and router."""
        if self.mixer.ready(cache):
            with RUNNING:
                self._take(x)
                self.mixer.begin(self.before, 1, cache)
                self.before.run()
            return
        with RUNNING:
            self._take(x)
            self.before.run(0, 1)
        added = self.mixer.decode(self.normed[None], cache)
        with RUNNING:
            self._added[:] = added[0]
            self.before.run(self._attended)


class _Layer:
    """The native behaviour of a decoder layer."""

    _plan: LayerPlan

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        plan = self._plan
        token = plan.token
        if mask is None and token.matches(x) and plan.can_decode(cache):
            return token.array(plan.decode(token.rows(x), cache))
        return super().__call__(x, mask, cache)  # type: ignore[misc,no-any-return]  # the other base has it


def native_plans(modules: Sequence[nn.Module]) -> list[LayerPlan]:
    """The plans of those modules that are native layers."""
    return [each._plan for each in modules if isinstance(each, _Layer)]


def plans(layers: Sequence[nn.Module]) -> list[LayerPlan] | None:
    """The layers' plans, or None if one of them is not native."""
    found = native_plans(layers)
    return found if len(found) == len(layers) > 0 else None


def swap_layer(layer: Any, matrices: Matrices, token: TokenActivations, memory: Workspace) -> None:
    """Make a layer of a known class decode natively, but for parts that are MLX's.

    Its attention must be native already, if kernels know it.

    Args:
        token, memory: the model's.
    """
    if known_as(layer, "layer") is None:
        return
    mixer = _mixer_of(layer, matrices)
    block = next(layer[name] for name in BLOCKS if name in layer)
    router, shared = feeds_of(block, matrices)
    if router is None and shared is None and isinstance(mixer, Foreign):
        return
    plan = LayerPlan(layer, mixer, block, router, shared, token, memory)
    object.__setattr__(layer, "_plan", plan)
    layer.__class__ = native_class(_Layer, type(layer))


MIXERS, BLOCKS = ("self_attn", "linear_attn"), ("mlp", "block_sparse_moe")
"""Names of what follows a layer's first and second norm."""


def _mixer_of(layer: Any, matrices: Matrices) -> Mixer:
    module = next(layer[name] for name in MIXERS if name in layer)
    mixer: Mixer | None = getattr(module, "_plan", None)
    if mixer is None and can_attend_latents(module):
        with suppress(KeyError):  # a linear layer that is MLX's
            mixer = LatentAttention(module, matrices)
    return mixer or Foreign(module)


def feeds_of(block: Any, matrices: Matrices) -> tuple[ExpertChoice | None, GatedMLP | None]:
    """A block's router and its shared expert, if all of both is known; else None twice.

    An MLP without a router counts as a shared expert.
    """
    try:
        if set(block.children()) == {"gate_proj", "up_proj", "down_proj"}:
            return None, GatedMLP(block, matrices)
        if not can_route(block) or paged_in(block) is None:
            return None, None
        found = next((block[name] for name in names("shared_experts") if block.get(name)), None)
        shared = found and GatedMLP(found, matrices, block.get("shared_expert_gate"))
        return ExpertChoice(block, matrices), shared
    except KeyError:  # a linear layer that is MLX's
        return None, None


def paged_in(block: Any) -> Any:
    """The paged switch of a block, if kernels compute its experts."""
    switches = (child for child in block.children().values() if hasattr(child, "decode"))
    return next((each for each in switches if hasattr(each.inner, "connected")), None)
