"""Finds an unpaged model's routing from what its blocks do with their experts' outputs.

This uses neither the package under test nor a family's name for its gate. A stand-in replaces
each switch, records the requested ids, and can return unit vectors: the j-th unit vector for
the j-th expert of a token. What the block computes from those is the weights.
"""

from __future__ import annotations

import re
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

LATENT = {"nemotron_h": "fc2_latent_proj", "kimi_k3": "routed_expert_norm"}
"""Type → the child of its block whose input is the weighted sum, at the experts' own width."""

Decisions = list[list[tuple[np.ndarray, np.ndarray]]]
"""Call → layer → (ids [tokens, k], weights [tokens, k])."""


class StandIn:
    """Replaces a switch; returns `answer`, or the switch's own output if that is None."""

    def __init__(self, switch: nn.Module) -> None:
        self.switch, self.answer = switch, None
        self.ids = self.x = self.output = mx.array(0)

    def __call__(self, x: mx.array, ids: mx.array) -> mx.array:
        if self.answer is not None:
            return mx.broadcast_to(self.answer, self.output.shape).astype(self.output.dtype)
        self.ids, self.x, self.output = ids, x, self.switch(x, ids)
        return self.output


class Taken(nn.Module):
    """Replaces a child module: records its input and computes the same output."""

    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child, self.x = child, mx.array(0)

    def __call__(self, x: mx.array) -> mx.array:
        self.x = x
        return self.child(x)


def switches_of(model: nn.Module) -> list[str]:
    """The paths of a model's switches, by their numbers."""
    paths = [p for p, m in model.named_modules() if isinstance(m, SwitchGLU | SwitchMLP)]
    return sorted(paths, key=lambda path: [int(n) for n in re.findall(r"\d+", path)])


def decisions(model: nn.Module, model_type: str, calls: list[list[int]]) -> Decisions:
    """Return each layer's routing when `model` is called with `calls` in turn."""
    noted: list[tuple[np.ndarray, np.ndarray]] = []
    for path in switches_of(model):
        _probe(model, path, LATENT.get(model_type), noted)
    cache, found = make_prompt_cache(model), []
    for tokens in calls:
        noted.clear()
        mx.eval(model(mx.array([tokens]), cache=cache))
        found.append(list(noted))
    return found


def _probe(model: nn.Module, path: str, latent: str | None, noted: list[Any]) -> None:
    *parents, name = path.split(".")
    block: Any = model
    for step in parents:
        block = block[int(step)] if isinstance(block, list) else block[step]
    stand = block[name] = StandIn(block[name])
    taken = Taken(block[latent]) if latent else None
    if latent:
        block[latent] = taken
    kind = type(block)

    def __call__(self: Any, x: mx.array, *args: Any) -> mx.array:  # noqa: N807
        output = kind.__call__(self, x, *args)
        k, width = stand.output.shape[-2:]

        def answering(answer: mx.array) -> mx.array:
            stand.answer = answer
            made = kind.__call__(self, x, *args)
            stand.answer = None
            return (taken.x if taken else made).astype(mx.float32)

        weights = (answering(mx.eye(k, width)) - answering(mx.zeros((k, width))))[..., :k]
        if k == 1 and mx.allclose(weights, mx.ones_like(weights)).item():
            # Not weighted after the experts, so before: llama4 scales the input of its one expert.
            weights = (stand.x * x).sum(-1, keepdims=True) / (x * x).sum(-1, keepdims=True)
        noted.append((np.array(stand.ids).reshape(-1, k), np.array(weights).reshape(-1, k)))
        return output

    block.__class__ = type(kind.__name__, (kind,), {"__call__": __call__})
