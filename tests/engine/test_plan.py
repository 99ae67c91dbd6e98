"""What a plan says of a model before it is loaded, and that it reads nothing large."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil
import pytest

import outlier_jupyter
from outlier_jupyter.engine.memory import PYTHON_NBYTES, expected_nbytes
from outlier_jupyter.engine.plan import plan
from outlier_jupyter.errors import ModelNotFound, UnsupportedModel
from outlier_jupyter.system.memory_info import Machine, machine_memory
from outlier_jupyter.testing import hollow_checkpoint
from tests.geometries import CONFIGS

GB = 10**9
MIB = 2**20
KNOWN = {
    # layers, experts, top-k, bytes per expert, MiB read cold, bytes of KV cache per token
    "Qwen3.5-397B-A17B": (60, 512, 10, 7_077_888, 4050, 15 * 2 * 2 * 256 * 2),
    "Qwen3.5-35B-A3B": (40, 256, 8, 1_769_472, 540, 10 * 2 * 2 * 256 * 2),
    "Qwen3-30B-A3B": (48, 128, 8, 2_654_208, 972, 48 * 2 * 4 * 128 * 2),
    "Qwen3-Next-80B-A3B": (48, 512, 10, 1_769_472, 810, 12 * 2 * 2 * 256 * 2),
    "OLMoE-1B-7B": (16, 64, 8, 3_538_944, 432, 16 * 2 * 16 * 128 * 2),
    "Mixtral-8x7B": (32, 8, 2, 99_090_432, 6048, 32 * 2 * 8 * 128 * 2),
    # mxfp4, and three expert biases in bf16; half its layers have a sliding window of 128
    "gpt-oss-120b": (36, 128, 4, 13_219_200 + 3 * 2880 * 2, 1818, 18 * 2 * 8 * 64 * 2),
    # attention keeps the latent of 512 and the 64 rotated values
    "DeepSeek-V3": (58, 256, 8, 24_772_608, 10962, 61 * (512 + 64) * 2),
    "GLM-4.5-Air": (45, 128, 8, 9_732_096, 3341, 46 * 2 * 8 * 128 * 2),
}
"""Sizes of the published models in affine 4-bit with groups of 64."""


@pytest.mark.parametrize("name", KNOWN)
def test_the_geometry_of_published_models_is_read_from_headers(name, tmp_path):
    """Layers, experts, top-k, bytes and KV growth of models of up to 400 GB, without weights."""
    how = {"mode": "mxfp4", "group_size": 32} if "oss" in name else {}
    found = plan(hollow_checkpoint(tmp_path / "model", CONFIGS[name], shards=5, **how))
    layers, experts, top_k, nbytes, cold_mib, kv = KNOWN[name]
    assert set(found.experts_per_layer) == {experts} and found.layers == layers
    assert set(found.top_k) == {top_k} and set(found.expert_nbytes) == {nbytes}
    assert round(found.cold_per_token / MIB) == cold_mib
    assert found.experts_total == layers * experts * nbytes
    assert found.kv_per_token == kv
    assert found.formats == (("mxfp4 4-bit, group 32" if how else "affine 4-bit, group 64"),)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return hollow_checkpoint(tmp_path_factory.mktemp("qwen") / "q", CONFIGS["Qwen3-30B-A3B"])


def test_planning_reads_no_weights(qwen):
    """In a separate process, planning a model of 17 GB reads a few MB and takes no RAM."""
    code = (
        "import sys, json, psutil, mlx.core as mx, outlier_jupyter.engine.plan as p\n"
        "me = psutil.Process(); before = me.io_counters().read_chars\n"
        f"p.plan({str(qwen)!r})\n"
        "print(json.dumps([me.io_counters().read_chars - before, mx.get_peak_memory()]))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    read, peak = json.loads(out.stdout)
    assert qwen.stat() and (qwen / "model-00000.safetensors").stat().st_size > 17 * GB
    assert 0 < read < 20_000_000 and peak < 1_000_000


def test_a_plan_says_what_loading_finds(tiny):
    """Layers, sizes and dense bytes are the engine's, and the advised size has room for them."""
    found = plan(tiny)
    with outlier_jupyter.load(tiny, cache_gb=found.cache_gb) as engine:
        status = engine.status()
        engine.generate("abc", raw=True, max_tokens=2, reuse_kv=True)
    assert (found.layers, found.experts_total, found.dense) == (
        status.layers, status.experts_nbytes, status.dense_nbytes)  # fmt: skip
    assert found.top_k == (2, 2, 2) and found.sizes[-1].experts == status.slots == status.experts
    assert found.here and found.context == 4096


@pytest.mark.parametrize(
    ("free", "expected", "sentence"),
    [
        (40, 16.4, "all experts fit, and nothing is read twice"),
        (14, 8.3, "it holds the experts of 8.1"),
        (6.2, 0.53, "less than the experts of a single token"),
        (3, None, "It does not fit here now"),
    ],
)
def test_the_advice_follows_from_what_is_free(qwen, free, expected, sentence):
    """All experts where they fit, else what the rest and a spared tenth allow, else none."""
    found = plan(qwen, machine=Machine(24 * GB, int(free * GB)))
    assert found.cache_gb == expected and sentence in found.advice
    beside = (
        found.dense
        + 8192 * found.kv_per_token
        + GB  # caches of earlier runs
        + PYTHON_NBYTES
        + expected_nbytes(CONFIGS["Qwen3-30B-A3B"]["vocab_size"])
    )
    for size in found.sizes:
        assert size.memory == pytest.approx(beside + min(size.cache_gb * GB, found.experts_total))
        assert size.fits == (size.memory <= (free - 2.4) * GB)
        assert size.tokens == size.experts / (48 * 8)
    if expected is not None:
        assert any(s.cache_gb == expected and s.fits for s in found.sizes)
    whole = found.sizes[-1]
    assert whole.experts == 48 * 128 and whole.share == 1


def test_a_plan_shows_itself_as_text_html_and_json(qwen):
    """Each has the same rows; the size to take is marked, and names are escaped in HTML."""
    found = plan(qwen, machine=Machine(24 * GB, 14 * GB))
    text, html = str(found), found._repr_html_()
    for sentence in ("48 layers × 128, top-8", "2.65 MB each", "affine 4-bit, group 64",
                 "1.02 GB read per token", "98.3 kB per token", "40,960 tokens"):  # fmt: skip
        assert sentence in text and sentence in html
    assert sum("←" in line for line in text.splitlines()) == 1 and repr(found) == text
    assert json.loads(json.dumps(found.to_dict()))["cold_per_token"] == found.cold_per_token
    assert "<script>" not in plan_of_evil(found)


def plan_of_evil(found) -> str:
    return type(found)(**vars(found) | {"model": "<script>"})._repr_html_()


def test_a_dense_model_is_planned_as_wholly_resident(checkpoint_of):
    """There are no experts and no table, but a sentence on whether it fits."""
    found = plan(checkpoint_of(mlp_only_layers=[0, 1, 2]))
    assert found.layers == 0 and found.sizes == () and found.cache_gb is None
    assert "the model is loaded whole" in str(found) and "fits here" in found.advice
    assert "<table>" in found._repr_html_()


def test_what_cannot_be_planned_is_one_sentence(tmp_path, tiny):
    """A missing path, a revision of a folder, and a model that mlx-lm does not know."""
    with pytest.raises(ModelNotFound, match="there is no folder"):
        plan(tmp_path / "nothing")
    with pytest.raises(ModelNotFound, match="is a folder and has no revision 'v2'"):
        plan(tiny, revision="v2")
    folder = tmp_path / "unknown"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "no_such_type"}')
    (folder / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    with pytest.raises(UnsupportedModel, match="Model type no_such_type not supported"):
        plan(folder)


def test_a_container_s_limit_is_what_counts(tmp_path):
    """Free memory in a control group is its limit less what it uses and cannot reclaim."""
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200000\n")
    assert machine_memory(tmp_path) == (1_000_000, 500_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_memory(tmp_path).total > 1_000_000


VERSION_1 = "9:name=systemd:/\n4:memory:/outer/inner\n0::/\n"
VERSION_2 = "0::/outer/inner\n"
NO_LIMIT = 9223372036854771712
"""The value of version 1 where there is no limit."""


@pytest.mark.parametrize(
    ("own", "root", "limit", "used", "cache"),
    [
        (VERSION_1, "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
         "total_inactive_file"),
        (VERSION_2, "", "memory.max", "memory.current", "inactive_file"),
        (VERSION_2, "unified", "memory.high", "memory.current", "inactive_file"),
    ],
)  # fmt: skip
def test_the_tightest_of_all_control_groups_counts(tmp_path, own, root, limit, used, cache):
    """Version 1, version 2 and both together; the limit of an enclosing group counts as well."""
    (tmp_path / "own").write_text(own)
    groups = tmp_path / "groups"
    inner = groups / root / "outer/inner"
    inner.mkdir(parents=True)

    def limited(group, most, now):
        (group / limit).write_text(f"{most}\n")
        (group / used).write_text(f"{now}\n")
        (group / "memory.stat").write_text(f"inactive_file 1\n{cache} 1000\n")

    limited(inner, 2_000_000, 600_000)
    assert machine_memory(groups, tmp_path / "own") == (2_000_000, 1_401_000)
    limited(inner.parent, 1_000_000, 900_000)
    assert machine_memory(groups, tmp_path / "own") == (1_000_000, 101_000)
    limited(inner, NO_LIMIT, 600_000)
    limited(inner.parent, NO_LIMIT, 900_000)
    assert machine_memory(groups, tmp_path / "own").total == psutil.virtual_memory().total


def test_a_container_that_sees_its_group_as_the_root_is_limited_by_it(tmp_path):
    """Its path is the machine's, and no such folder exists inside the container."""
    (tmp_path / "own").write_text("4:cpu,memory:/docker/0a1b\n")
    group = tmp_path / "memory"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text("1000000\n")
    (group / "memory.usage_in_bytes").write_text("250000\n")
    assert machine_memory(tmp_path, tmp_path / "own") == (1_000_000, 750_000)
