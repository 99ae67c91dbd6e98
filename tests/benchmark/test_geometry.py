"""Models whose router follows a trace, layers that share their bytes, and the short form."""

from __future__ import annotations

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.benchmark.geometry import config_of, router_codes, write_model
from outlier_jupyter.benchmark.limits import least_seconds
from outlier_jupyter.benchmark.models import layer_nbytes, make
from outlier_jupyter.benchmark.rounds import interleave, limited, row
from outlier_jupyter.benchmark.routing import Source, resample
from outlier_jupyter.benchmark.short import short
from outlier_jupyter.benchmark.subjects import BenchmarkText, check_routing, run_engine
from outlier_jupyter.checkpoint import Checkpoint
from outlier_jupyter.cpu.kernels.processor import VECTORS, cpu_name
from outlier_jupyter.errors import OutlierError

SMALL = {
    "hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64,
    "moe_intermediate_size": 64, "num_experts": 8, "num_experts_per_tok": 2, "vocab_size": 192,
}  # fmt: skip


@pytest.fixture(scope="module")
def source() -> Source:
    """Twelve tokens of three layers of eight experts, top-2."""
    rng = np.random.default_rng(0)
    picks = np.argsort(rng.random((12, 3, 8)), axis=-1)[..., :2]
    return Source(picks.astype(np.int16), 8, "made")


@pytest.fixture(scope="module")
def model(source, tmp_path_factory):
    """A tiny model of six layers over the bytes of two."""
    home = tmp_path_factory.mktemp("bench")
    return make("30b", home, source, distinct=2, repacked=False, config=config_of("30b", 6) | SMALL)


@pytest.mark.parametrize("kernels", ["auto", "mlx"])
def test_a_model_routes_and_talks_as_it_was_made_to(model, kernels):
    """Any kernels decode the trace's text and choose its experts in every layer."""
    with outlier_jupyter.load(str(model.folder), kernels=kernels, cache_experts=12) as engine:
        found = run_engine(engine, model.routes, BenchmarkText(12, 4, 6))
        produced = engine.last_run.tokens.tolist()
    assert produced == [16, 17, 18, 19, 20, 21]
    assert 0 < found["hit_rate"] < 1 and found["missed_bytes"] > 0


def test_a_run_that_routed_elsewhere_is_refused(model):
    """The numbers of a run that chose other experts than the trace are not valid."""
    with outlier_jupyter.load(str(model.folder), kernels="mlx", cache_experts=48) as engine:
        run_engine(engine, model.routes, BenchmarkText(0, 2, 2))
        trace = engine.last_run.trace
    trace.experts[1, 3] = (trace.experts[1, 3] + 1) % 8
    with pytest.raises(OutlierError, match="1 of 3 steps did not follow"):
        check_routing(trace, model.routes)


def test_layers_that_share_bytes_have_routers_of_their_own(model):
    """Six layers use the experts of two, and each layer has its own router."""
    spans = Checkpoint(model.folder).spans
    places = {name: span.bytes for name, span in spans.items()}
    experts = [places[f"model.layers.{i}.mlp.switch_mlp.up_proj.weight"] for i in range(6)]
    assert experts[0] == experts[2] == experts[4] != experts[1] == experts[3]
    assert len({places[f"model.layers.{i}.mlp.gate.weight"] for i in range(6)}) == 6
    assert all(place.offset % 4096 == 0 for place in experts)
    assert "6 layers named over the bytes of 2" in str(model.description["model"])


def test_a_model_is_written_once(model):
    """A model with the same routes is reused; other routes write it anew."""
    before = (model.folder / "config.json").stat().st_mtime_ns
    write_model(model.folder, model.config, model.routes, distinct=2)
    assert (model.folder / "config.json").stat().st_mtime_ns == before


def test_router_codes_rank_the_experts_of_the_route(source):
    """The experts of a token's route have the highest values in its column, in their order."""
    routes = resample(source, 3, 8, 2, 1)
    codes = router_codes(routes, 1, 8, 32, np.random.default_rng(0))
    ranked = np.argsort(-codes[:, :12].astype(int), axis=0)[:2].T
    assert np.array_equal(ranked, routes.picks[:, 1])


def test_the_limit_is_whichever_takes_longer():
    """The larger of two times: bytes multiplied over memory bandwidth, bytes missed over disk's."""
    assert least_seconds(10e9, 0, 20e9, 1e9) == 0.5
    assert least_seconds(10e9, 2e9, 20e9, 1e9) == 2
    numbers = {"token_s": 3.0, "active_bytes": 10e9, "missed_bytes": 2e9,
               "memory_gb_per_s": 20.0, "disk_mb_per_s": 1000.0}  # fmt: skip
    assert limited(numbers)["times_limit"] == 1.5
    assert layer_nbytes(config_of("30b")) == 128 * 2_654_208


def test_rows_have_medians_and_ranges_of_interleaved_rounds():
    """Each round runs every subject; a row has the median, the slowest and the fastest speed."""
    order = []

    def subject(name, times):
        return lambda number: order.append((number, name)) or {"token_s": times[number]}

    found = interleave(
        {"a": subject("a", [1, 0.5, 0.1]), "b": subject("b", [2, 2, 2])}, 3, lambda: {"disk": 7.0}
    )
    assert order == [(i, name) for i in range(3) for name in "ab"]
    made = row("a", found["a"], layers=4)
    assert (made["tokens_per_s"], made["slowest"], made["fastest"]) == (2, 1, 10)
    assert (made["layers"], made["disk"], made["rounds"]) == (4, 7, 3)


def test_the_short_form_compares_everything_on_a_tiny_slice(source, tmp_path, monkeypatch):
    """The whole path: the model is made and routed by the trace, and the table has each row."""
    monkeypatch.setattr(
        "outlier_jupyter.benchmark.short.find_source", lambda traces, report: source
    )
    monkeypatch.setattr("outlier_jupyter.benchmark.short.hardware", lambda *args: {
        "memory_gb_per_s": 10.0, "disk_mb_per_s": 1000.0})  # fmt: skip
    found = short(tmp_path, rounds=1, tokens=3, config=config_of("30b", 2) | SMALL)
    hits = {r["subject"]: r.get("hit_rate") for r in found.rows}
    assert hits["all cached"] == hits["all cached, MLX's kernels"] == 1
    assert 0 < hits["a quarter cached"] < 1
    assert set(hits) >= {"mlx-lm in RAM, bf16", "mlx-lm in RAM, float32"}
    assert all(r["tokens_per_s"] > 0 for r in found.rows) and "routing of made" in str(found)
    assert f"({cpu_name()}), kernels with {VECTORS}" in str(found)
