"""Routers as links: the logits of all experts, then the ids and weights of those chosen.

A router's numbers are attributes of its block, of its gate or of their config, under the names that
`families` lists.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...families import known_as, names
from ..kernels import Link, Scoring, Workspace, choose_link
from .arrays import F32s, Ids, as_rows
from .linear import matrix_of
from .parts import Matrices, Projection


class ExpertChoice:
    """How a block chooses a token's experts.

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
        gate = next(block[name] for name in names("routers") if name in block)
        self._gate, self._kind = gate, type(gate)
        # Some gates are no linear layers, but multiply by a matrix of their own.
        own = known_as(gate, "gate") is not None
        self._logits = Projection([matrix_of(gate) if own else matrices[id(gate)]])
        self.nbytes = self._logits.nbytes
        owners = [gate, block, *(getattr(block, name, None) for name in ("args", "config"))]

        def found(*attributes: str) -> Any:
            """The first owner's value under a name that families list; None without one."""
            values = (
                getattr(owner, name)
                for owner in owners
                for attribute in attributes
                for name in names(attribute)
                if hasattr(owner, name)
            )
            return next((value for value in values if value is not None), None)

        self.k = int(found("top_k", "router_top_k"))
        function, normalised = found("score_functions"), found("normalised")
        bias = found("selection_biases")
        if normalised is None:
            normalised = family.sums_to_one
        elif bias is not None:
            normalised = normalised and self.k > 1
        self._how = Scoring(
            bool(normalised),
            family.sigmoid if function is None else function == "sigmoid",
            None if bias is None else as_rows(bias)[0].copy(),
            int(found("groups") or 1),
            int(found("top_groups") or 1),
            float(found("scales") or 1.0),
        )

    @property
    def unchanged(self) -> bool:
        """Whether routing is not overridden: `routing_override` changes a router's class."""
        return type(self._gate) is self._kind

    def links(self, x: F32s, ids: Ids, weights: F32s, memory: Workspace) -> list[Link]:
        """x [width] → ids [k] and weights [k], in the order of their scores; or several rows."""
        logits = memory.floats("logits", self._logits.height * (x.size // x.shape[-1]))
        logits = logits.reshape(*x.shape[:-1], -1)
        links = self._logits.links(x, logits)
        three = (np.atleast_2d(each) for each in (logits, ids, weights))
        for one, chosen, weight in zip(*three, strict=True):
            links.append(choose_link(one, chosen, weight, self._how))
        return links


def can_route(block: Any) -> bool:
    """Whether the block's router is known."""
    return known_as(block, "block") is not None
