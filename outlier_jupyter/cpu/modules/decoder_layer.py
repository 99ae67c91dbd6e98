"""A whole decoder layer for one new token, computed without MLX.

It covers the classes that `families` names, all of one shape: norm, attention, norm, router,
experts, optional shared expert. In MLX each cut of the graph costs an evaluation, more than the
small operations between the cuts compute. The paged switch computes the experts as usual, and the
router tap receives the weights; a token's ids are in the order of their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...families import known_as
from ..kernels import RUNNING, Chain, Experts, Stack, Workspace, blend_link, choose_link, norm_link
from .arrays import F32s, Ids, as_rows
from .classes import native_class
from .kv_append import takes_float32


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


def norm_of(module: Any) -> tuple[F32s, float]:
    """An RMS norm's weights [width] and its epsilon."""
    return as_rows(module.weight)[0].copy(), float(module.eps)


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


class SharedExpert:
    """The shared expert, scaled by a gate."""

    def __init__(self, block: Any, stacks: dict[int, Stack]) -> None:
        expert = block.shared_expert
        self._gate_and_up = stacks[id(expert.gate_proj)]
        self._down, self._gate = stacks[id(expert.down_proj)], stacks[id(block.shared_expert_gate)]

    def __call__(self, x: F32s) -> F32s:
        """x [1, width] → [1, width]."""
        both = self._gate_and_up.multiply(x)
        gate, up = np.split(both, 2, axis=1)
        out = self._down.multiply(gate / (1 + np.exp(-gate)) * up)
        found: F32s = out / (1 + np.exp(-self._gate.multiply(x)))
        return found


class LayerPlan:
    """One layer's parts and kernel chains.

    Args:
        stacks: id of each native linear layer → its matrices.
        token: the model's.
        memory: shared by the model's layers, which run one after the other.
    """

    def __init__(
        self, layer: Any, stacks: dict[int, Stack], token: TokenActivations, memory: Workspace
    ) -> None:
        family = known_as(layer, "layer")
        assert family is not None, "only layers that can_swap accepts"
        block = layer[family.block]
        self.token = token
        self.attention = layer.self_attn._plan
        self.shared = SharedExpert(block, stacks) if "shared_expert" in block else None
        self.gate, self.experts = block.gate, block.switch_mlp
        self._gate_class = type(block.gate)
        router = stacks[id(block.gate)]
        k = int(block.top_k if hasattr(block, "top_k") else block.num_experts_per_tok)
        # Mixtral's softmax over the chosen experts equals making their weights sum to 1.
        sums_to_one = bool(getattr(block, "norm_topk_prob", family.sums_to_one))
        before, after = norm_of(layer.input_layernorm), norm_of(layer.post_attention_layernorm)
        width = len(before[0])
        self._k = k
        self._chosen = ids, weights = self.experts.choice_buffers(k)
        self._x, self._normed, self._added = (
            memory.floats(name, width) for name in ("x", "normed", "added")
        )
        logits = memory.floats("logits", router.height)
        links = [
            norm_link(self._x, *before, self._normed),
            *self.attention.links(self._normed, self._added, memory),
        ]
        self._attended = len(links)
        links += [
            norm_link(self._x, *after, self._normed, self._added),
            *router.links(self._normed, logits),
            choose_link(logits, ids[0], weights[0], sums_to_one),
        ]
        self._row = self._x[None]
        self._outputs = memory.floats("outputs", k * width).reshape(k, width)
        self._blending = blend_link(self._x, weights[0], self._outputs)
        self._blend = Chain([self._blending], 0)
        stacked = (self.attention.shared.stack, self.attention.output, router)
        self._chain = Chain(links, sum(stack.nbytes for stack in stacked))

    def can_decode(self, cache: Any) -> bool:
        """Whether a token can be decoded with this cache, and the router is unchanged."""
        if not self._chooses_as_made:
            return False
        return self.attention.appender.owns(cache) or takes_float32(cache)

    @property
    def _chooses_as_made(self) -> bool:
        # `routing_override` changes a router's class.
        return type(self.gate) is self._gate_class

    def can_reserve(self, cache: Any) -> bool:
        """Whether kernels alone can compute up to the experts: the KV cache has room."""
        return self._chooses_as_made and self.attention.appender.owns(cache)

    def reserve(self, cache: Any) -> None:
        """Reserve the token's place in the KV cache, if `can_reserve`; then `decode_reserved`."""
        self.attention.begin(self._chain, 1, *self.attention.appender.reserve(cache))

    def decode_reserved(self, x: F32s) -> F32s:
        """As `decode`, after `reserve`."""
        with RUNNING:
            self._take(x)
            self._chain.run()
        return self._run_experts()

    def decode(self, x: F32s, cache: Any) -> F32s:
        """x [1, width] → [1, width], unchanged until the next layer runs."""
        self._route(x, cache)
        return self._run_experts()

    def _run_experts(self) -> F32s:
        """Compute the experts, the shared expert, and their sum."""
        resident = self.experts.resident_map
        if resident is not None:
            return self._decode_resident(resident)
        ids, weights = self._chosen
        shared_outputs: list[F32s] = []  # computed while experts are read
        shared, normed = self.shared, self._normed[None]
        self._outputs[:] = self.experts.decode(
            normed, ids.copy(), weights,
            None if shared is None else lambda: shared_outputs.append(shared(normed)),
        )[0]  # fmt: skip
        with RUNNING:
            self._blend.run()
        for more in shared_outputs:
            self._x += more[0]
        return self._row

    def _decode_resident(self, resident: Any) -> F32s:
        chain = self._chain_of(resident.host)
        self.experts.decode_resident(self._k, lambda: self._compute(chain))
        return self._row

    def _take(self, x: F32s) -> None:
        """Copy x [1, width] to the chain's input, unless the previous layer wrote it there."""
        if x.base is not self._x:
            self._x[:] = x[0]

    def _compute(self, chain: Chain) -> None:
        """Compute all experts and the shared one."""
        more = None if self.shared is None else self.shared(self._normed[None])
        with RUNNING:
            chain.run()
        if more is not None:
            self._x += more[0]

    def _chain_of(self, slot_map: Ids) -> Chain:
        """The chain that computes the experts in these slots, and their sum.

        The experts keep it, not this object: a released bank must not stay alive.
        """
        experts: Experts = self.experts.inner.connected()
        if experts.chain is None or experts.chain[0] is not slot_map:
            ids = self._chosen[0][0]
            links = experts.links(self._normed, ids, slot_map, self._outputs)
            nbytes = len(ids) * experts.nbytes
            experts.chain = slot_map, Chain([*links, self._blending], nbytes)
        return experts.chain[1]

    def _route(self, x: F32s, cache: Any) -> None:
        """Compute everything before the experts: norms, attention and router."""
        place = self.attention.appender.reserve(cache)
        with RUNNING:
            self._take(x)
            if place is not None:
                self.attention.begin(self._chain, 1, *place)
                self._chain.run()
                return
            self._chain.run(0, 1)
        added = self.attention.decode(self._normed[None], cache)
        with RUNNING:
            self._added[:] = added[0]
            self._chain.run(self._attended)


class _Layer:
    """The native behaviour of a decoder layer."""

    _plan: LayerPlan

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        plan = self._plan
        token = plan.token
        if mask is None and token.matches(x) and plan.can_decode(cache):
            return token.array(plan.decode(token.rows(x), cache))
        return super().__call__(x, mask, cache)  # type: ignore[misc,no-any-return]  # the other base has it


def plans(layers: Sequence[nn.Module]) -> list[LayerPlan] | None:
    """The layers' plans, or None if one of them is not native."""
    found = [each._plan for each in layers if isinstance(each, _Layer)]
    return found if len(found) == len(layers) > 0 else None


def can_swap(layer: nn.Module) -> bool:
    """Whether the layer is of a known class and has paged experts."""
    family = known_as(layer, "layer")
    return family is not None and hasattr(layer[family.block].get("switch_mlp"), "decode")


def swap_layer(
    layer: Any, stacks: dict[int, Stack], token: TokenActivations, memory: Workspace
) -> None:
    """Make a layer decode natively; its attention must be native already.

    Args:
        stacks: id of each native linear layer → its matrices.
        token, memory: the model's.
    """
    object.__setattr__(layer, "_plan", LayerPlan(layer, stacks, token, memory))
    layer.__class__ = native_class(_Layer, type(layer))
