"""Measures how much the routing of a text reveals of its domain."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mlx import nn


class Recorder(nn.Module):
    """Stands in for a layer's experts and counts which of them each forward pass chose."""

    def __init__(self, inner: nn.Module, experts: int) -> None:
        super().__init__()
        self.inner = inner
        self._experts = experts
        self._rows: list[np.ndarray] = []

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        chosen = np.array(indices).reshape(-1)
        self._rows.append(np.bincount(chosen, minlength=self._experts))
        return self.inner(x, indices)

    def clear(self) -> None:
        """Reset the counts."""
        self._rows = []

    def histograms(self) -> np.ndarray:
        """Counts ``[forward passes, experts]``."""
        return np.stack(self._rows)


def record(model: nn.Module) -> list[Recorder]:
    """Put a recorder into each layer of a qwen3_moe model."""
    recorders = []
    for layer in model.layers:
        recorder = Recorder(layer.mlp.switch_mlp, model.args.num_experts)
        layer.mlp.switch_mlp = recorder
        recorders.append(recorder)
    return recorders


def information(counts: np.ndarray) -> float:
    """Mutual information in bits of rows and columns of a table of counts, rows weighted alike."""
    joint = counts / counts.sum(1, keepdims=True) / len(counts)
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    used = joint > 0
    return float((joint[used] * np.log2(joint[used] / product[used])).sum())


def domain_information(
    routing: dict[str, np.ndarray], seed: int, shuffles: int = 100
) -> list[dict[str, float]]:
    """Per layer: information between domain and expert, and the most that shuffled labels reach.

    Whole windows are shuffled, not tokens: neighbouring tokens share much of their routing, so
    shuffling tokens would make chance look smaller than it is.
    """
    rows = np.concatenate(list(routing.values()))
    labels = np.concatenate([[i] * len(r) for i, r in enumerate(routing.values())])
    rng = np.random.default_rng(seed)

    def tables(order: np.ndarray) -> np.ndarray:
        return np.stack([rows[order == i].sum(0) for i in range(len(routing))])

    true = tables(labels)
    shuffled = [tables(rng.permutation(labels)) for _ in range(shuffles)]
    found = []
    for layer in range(rows.shape[1]):
        chance = [information(table[:, layer]) for table in shuffled]
        found.append(
            {
                "bits": round(information(true[:, layer]), 3),
                "shuffled_mean": round(float(np.mean(chance)), 3),
                "shuffled_max": round(float(np.max(chance)), 3),
            }
        )
    return found


def guessed_domains(routing: dict[str, np.ndarray]) -> float:
    """Share of windows whose domain is guessed from their expert counts alone.

    Naive Bayes on all layers' counts: fitted on the even windows, tested on the odd ones.
    """
    flat = {name: rows.reshape(len(rows), -1) for name, rows in routing.items()}
    fitted = np.stack([rows[0::2].sum(0) + 1.0 for rows in flat.values()])
    logs = np.log(fitted / fitted.sum(1, keepdims=True))
    right = total = 0
    for label, rows in enumerate(flat.values()):
        guesses = (rows[1::2] @ logs.T).argmax(1)
        right += int((guesses == label).sum())
        total += len(guesses)
    return right / total


def never_used(routing: dict[str, np.ndarray]) -> float:
    """Share of experts that no test token of any domain chose."""
    counts = np.concatenate(list(routing.values())).sum(0)
    return float((counts == 0).mean())
