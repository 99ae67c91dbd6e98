"""Routers as links: the logits of all experts, then the ids and weights of those chosen."""

from __future__ import annotations

from typing import Any

from ...families import known_as
from ..kernels import Link, Stack, Workspace, choose_link
from .arrays import F32s, Ids
from .parts import Matrices


class ExpertChoice:
    """A block's router.

    Args:
        block: the layer's sparse block, of a known class.

    Attributes:
        k: experts per token.
        nbytes: of its weights.

    Raises:
        KeyError: its linear layer is not native.
    """

    def __init__(self, block: Any, matrices: Matrices) -> None:
        family = known_as(block, "block")
        assert family is not None, "only blocks that can_route accepts"
        self._gate, self._kind = block.gate, type(block.gate)
        self._stack = Stack([matrices[id(block.gate)]])
        self.nbytes = self._stack.nbytes
        self.k = int(block.top_k if hasattr(block, "top_k") else block.num_experts_per_tok)
        # Mixtral's softmax over the chosen experts equals making their weights sum to 1.
        self._sums_to_one = bool(getattr(block, "norm_topk_prob", family.sums_to_one))

    @property
    def unchanged(self) -> bool:
        """Whether routing is not overridden: `routing_override` changes a router's class."""
        return type(self._gate) is self._kind

    def links(self, x: F32s, ids: Ids, weights: F32s, memory: Workspace) -> list[Link]:
        """x [width] → ids [k] and weights [k], in the order of the weights."""
        logits = memory.floats("logits", self._stack.height)
        return [*self._stack.links(x, logits), choose_link(logits, ids, weights, self._sums_to_one)]


def can_route(block: Any) -> bool:
    """Whether the block's router is known."""
    return known_as(block, "block") is not None
