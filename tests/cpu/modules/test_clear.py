"""The comparison distinguishes a tie in the reference from a fault in the other model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlx_lm import load as load_unpaged

from tests.cpu.modules.clear import Reference


def test_a_fault_is_not_taken_for_a_tie(tiny):
    """A weight that is off by a twentieth is found, with one token and with many."""
    reference, wrong = (load_unpaged(str(tiny))[0] for _ in range(2))
    norm = wrong.model.layers[1].input_layernorm
    norm.weight = norm.weight * 1.05
    compared = Reference(reference)
    for length in (1, 40):
        assert compared.agrees_with(reference, length)
        assert not compared.agrees_with(wrong, length)


def test_nothing_is_concluded_from_a_tie(tiny):
    """Between two experts with equal scores, the router's choice may be either."""
    above, below = (tied(tiny, 1 + by) for by in (1e-6, -1e-6))
    for model, other in ((above, below), (below, above)):
        compared = Reference(model)
        assert compared.agrees_with(model, 40)
        with pytest.raises(AssertionError, match="met a tie"):
            compared.agrees_with(other, 40)
        assert compared.agrees_with(model, 40)  # its weights are unchanged


def tied(folder: Path, by: float) -> Any:
    """A model whose first layer gives experts 0 and 1 the same score, but for a factor."""
    model, _ = load_unpaged(str(folder))
    gate = model.model.layers[0].mlp.gate
    for part in (gate.weight, gate.scales, gate.biases):
        part[1] = part[0]
    gate.scales[1] = gate.scales[1] * by
    gate.biases[1] = gate.biases[1] * by
    return model
