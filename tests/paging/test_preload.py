"""An engine can start warm: with pinned experts, and with those an earlier run used most."""

from __future__ import annotations

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.errors import OptionError
from outlier_jupyter.trace.measures import frequency


def resident(engine) -> set[tuple[int, int]]:
    return set(map(tuple, engine.resident().tolist()))


@pytest.mark.parametrize("policy", ["predictive", "lru"])
def test_pinned_experts_are_read_at_load_and_stay(tiny, policy):
    """Resident before the first token and after a run over many others; not a byte changes."""
    pins = ("0:5", "2:1", "2:7")
    with outlier_jupyter.load(tiny, cache_experts=7, policy=policy, pin=pins) as engine:
        assert resident(engine) == {(0, 5), (2, 1), (2, 7)}
        run = engine.generate("pins stay", max_tokens=20)
        assert {(0, 5), (2, 1), (2, 7)} <= resident(engine)
        with pytest.raises(OptionError, match="3 pinned experts"):
            engine.resize(cache_experts=3)
        engine.resize(cache_experts=5)
        assert {(0, 5), (2, 1), (2, 7)} <= resident(engine)
        assert len(run.trace.evictions)
    with outlier_jupyter.load(tiny, cache_experts=24) as engine:
        assert engine.generate("pins stay", max_tokens=20).text == run.text


def test_an_engine_warms_up_from_an_earlier_trace(tiny, tmp_path):
    """The trace's most used experts start resident, and the policy starts from its routing."""
    with outlier_jupyter.load(tiny, cache_experts=8) as engine:
        earlier = engine.generate("warm me up", max_tokens=30)
    path = earlier.save(tmp_path / "earlier.safetensors")
    counts = frequency(earlier.trace)
    with outlier_jupyter.load(tiny, cache_experts=8, warm=str(path)) as engine:
        kept = resident(engine)
        assert len(kept) == 8
        least_kept = min(counts[key] for key in kept)
        assert least_kept >= max(
            counts[layer, expert]
            for layer, expert in np.argwhere(counts).tolist()
            if (layer, expert) not in kept
        )
        again = engine.generate("warm me up", max_tokens=30)
        assert again.text == earlier.text
        assert again.trace.hits[0].any() and not earlier.trace.hits[0].any()
        assert len(again.trace.resident_at_start) == 8


@pytest.mark.parametrize("pin", ["5", "a:b", "0:99", "7:0", "-1:2"])
def test_a_pin_that_names_no_expert_is_refused(tiny, pin):
    """One sentence gives the form of a pin, or the last expert of the layer."""
    with pytest.raises(OptionError, match=r"LAYER:EXPERT|the last one is 2:7"):
        outlier_jupyter.load(tiny, cache_experts=6, pin=(pin,))


def test_pins_must_leave_room(tiny):
    """Loading refuses as many pins as slots."""
    with pytest.raises(OptionError, match="pin fewer"):
        outlier_jupyter.load(tiny, cache_experts=2, pin=("0:0", "0:1"))


def test_a_trace_of_another_model_is_refused(tiny, checkpoint_of, tmp_path):
    """The trace must have the same layers."""
    with outlier_jupyter.load("demo", cache_experts=40) as engine:
        path = engine.generate("Hi", max_tokens=2).save(tmp_path / "other.safetensors")
    with pytest.raises(OptionError, match="give a trace of this model"):
        outlier_jupyter.load(tiny, cache_experts=6, warm=str(path))
