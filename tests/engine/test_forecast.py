"""What a model will do on this machine is said before it is loaded, and on what that rests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import outlier_jupyter
from outlier_jupyter.engine import measure_speed as measuring
from outlier_jupyter.engine import routing_history
from outlier_jupyter.engine.forecast import PROMPTS, Geometry, forecast
from outlier_jupyter.engine.measure_speed import measure_speed
from outlier_jupyter.engine.plan import plan
from outlier_jupyter.system import machine_speed
from outlier_jupyter.system.machine_speed import MachineSpeed, kept_speed

MACHINE = MachineSpeed(25e9, 2e9, 60e9, 20e6, "2026-01-31")
QWEN = Geometry(48, 128, 8, 2_654_208, 900_000_000, 4.0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, an empty one."""
    monkeypatch.delenv("OUTLIER_HISTORY", raising=False)
    for module in (machine_speed, routing_history):
        monkeypatch.setattr(module, "user_cache_path", lambda name: tmp_path)
    return tmp_path


def test_a_machine_is_measured_once_and_the_numbers_are_kept(cache, monkeypatch):
    """The file that was read for it is gone; damaged numbers count as none."""
    monkeypatch.setattr(measuring, "PROBED_NBYTES", 4 << 20)
    assert kept_speed() is None
    found = measure_speed((), 100_000)
    assert min(found.memory, found.disk, found.products) > 0 and kept_speed() == found
    assert [file.name for file in cache.iterdir()] == ["machine.json"]
    for damaged in ("", "[]", "{}", json.dumps({**vars(found), "disk": 0}),
                    json.dumps({**vars(found), "disk": "fast"})):  # fmt: skip
        (cache / "machine.json").write_text(damaged)
        assert kept_speed() is None


def test_more_cache_is_never_forecast_to_be_slower_and_all_cached_reads_nothing():
    """The band is around the likely speed; the knee is where more gains less than a tenth."""
    whole = 48 * 128
    slots = [whole // 16, whole // 8, whole // 4, whole // 2, whole]
    found = forecast(QWEN, slots, MACHINE)
    likely = [speed.likely for speed in found.speeds]
    assert likely == sorted(likely)
    assert all(speed.low < speed.likely < speed.high for speed in found.speeds)
    assert found.speeds[-1].hit_rate == 1.0 and 0.3 < found.speeds[0].hit_rate < 0.7
    assert likely[found.knee()] >= 0.9 * likely[-1] > likely[found.knee() - 1]
    assert [tokens for tokens, _ in found.waits] == list(PROMPTS)
    assert "routing of qwen3-30b-a3b, whose layers are closest" in found.words()


def test_what_ran_here_comes_before_the_recordings():
    """A model that always chooses the same experts reads nothing once they are cached."""
    own = np.tile(np.arange(8, dtype=np.int16), (100, 48, 1))
    found = forecast(QWEN, [48 * 8], MACHINE, own)
    assert found.speeds[0].hit_rate == 1.0 and "earlier runs here" in found.basis


@settings(max_examples=15, deadline=None)
@given(
    layers=st.integers(1, 6), experts=st.integers(2, 300), share=st.floats(0, 1),
    size=st.floats(0.01, 1),
)  # fmt: skip
def test_any_geometry_has_a_forecast(layers, experts, share, size):
    """Few experts or many, one choice or all."""
    k = max(1, min(experts, 32, round(share * experts)))
    model = Geometry(layers, experts, k, 100_000, 1_000_000, 4.0)
    (speed,) = forecast(model, [max(layers, round(size * layers * experts))], MACHINE).speeds
    assert 0 < speed.low < speed.likely < speed.high and 0 <= speed.hit_rate <= 1


def test_a_plan_forecasts_once_the_machine_is_measured(tiny, cache, monkeypatch):
    """Before that it has no column of speeds, and with MLX's kernels never."""
    monkeypatch.setattr(measuring, "PROBED_NBYTES", 4 << 20)
    assert plan(tiny).forecast is None and "tokens/s" not in str(plan(tiny))
    found = plan(tiny, measure=True)
    assert found.forecast is not None and len(found.forecast.speeds) == len(found.sizes)
    assert (
        found.forecast == plan(tiny).forecast
        and "tokens/s" in str(found)
        and "tokens/s" in found._repr_html_()
    )
    assert "The first token waits, roughly," in str(found)
    assert json.loads(json.dumps(found.to_dict()))["forecast"]["speeds"]
    assert plan(tiny, kernels="mlx").forecast is None


def test_a_plan_after_runs_rests_on_their_routing(tiny, cache, monkeypatch):
    """A hundred tokens of earlier runs are enough."""
    monkeypatch.setattr(measuring, "PROBED_NBYTES", 4 << 20)
    assert "earlier runs here" not in str(plan(tiny, measure=True))
    with outlier_jupyter.load(tiny, cache_experts=12, quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        engine.generate("a prompt", max_tokens=110, raw=True)
    assert "earlier runs here" in str(plan(tiny))
