"""An adapter of mlx-lm on dense layers gives mlx-lm's own logits; others are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load as mlx_lm_load

from outlier_jupyter import load
from outlier_jupyter.errors import OptionError, OutlierError

DENSE = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj"]
PROMPT = "What is an expert?"


def adapter(model: Path, folder: Path, kind: str = "lora", keys: list[str] | None = None) -> Path:
    """Write an adapter of random weights for `model`."""
    folder.mkdir()
    parameters = {"rank": 4, "scale": 8.0, "dropout": 0.1, "keys": keys}
    config = {"fine_tune_type": kind, "num_layers": 2, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    module, _ = mlx_lm_load(str(model))
    linear_to_lora_layers(module, 2, dict(parameters), use_dora=kind == "dora")
    mx.random.seed(4)
    weights = {
        name: mx.random.normal(value.shape) * 0.3 if name.endswith("lora_b") else value
        for name, value in tree_flatten(module.parameters())
        if name.rsplit(".", 1)[-1] in ("lora_a", "lora_b", "m")
    }
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    return folder


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_logits_are_those_of_mlx_lm_with_the_adapter(tiny, tmp_path, kind):
    """Bit for bit, with experts paged; without it they are others, and the run says why."""
    path = adapter(tiny, tmp_path / kind, kind, DENSE)
    module, tokenizer = mlx_lm_load(str(tiny), adapter_path=str(path))
    ids = mx.array(tokenizer.encode(PROMPT))[None]
    expected, plain = module(ids), mlx_lm_load(str(tiny))[0](ids)
    with load(tiny, cache_experts=8, adapter=str(path)) as engine:
        found = engine.model(ids)
        np.testing.assert_array_equal(np.array(found), np.array(expected))
        assert not np.array_equal(np.array(found), np.array(plain))
        run = engine.generate(PROMPT, max_tokens=4)
        assert run.trace.info.changed_output == f"adapter {kind}"
        assert engine.status().changed_output == f"adapter {kind}"


def test_a_run_is_branched_with_its_own_adapter_alone(tiny, tmp_path):
    """Compared by its files' content: a copy is the same, one that was trained on is another."""
    path = adapter(tiny, tmp_path / "first", keys=DENSE)
    with load(tiny, cache_experts=8, adapter=str(path)) as engine:
        run = engine.generate(PROMPT, max_tokens=4)
    copied = shutil.copytree(path, tmp_path / "copied")
    with load(tiny, cache_experts=8, adapter=str(copied)) as engine:
        assert engine.branch(run, 2, rank=2).branched.token == 2
    weights = copied / "adapters.safetensors"
    trained = {name: value * 2 for name, value in mx.load(str(weights)).items()}
    mx.save_safetensors(str(weights), trained)
    for other in (str(copied), None):
        with load(tiny, cache_experts=8, adapter=other) as engine:
            with pytest.raises(OptionError, match=r"another model or adapter .*first") as refused:
                engine.branch(run, 2, rank=2)
            assert len(str(refused.value)) <= 300
            plain = engine.generate(PROMPT, max_tokens=4)
    engine = load(tiny, cache_experts=8, adapter=str(path))
    with engine, pytest.raises(OptionError, match="no adapter"):
        engine.branch(plain, 2, rank=2)


@pytest.mark.parametrize("keys", [["mlp.switch_mlp.up_proj"], None])
def test_an_adapter_of_experts_is_refused(tiny, tmp_path, keys):
    """In one sentence that says what to do; None is mlx-lm's word for all layers."""
    with pytest.raises(OptionError, match="is of experts") as refused:
        load(tiny, cache_experts=8, adapter=str(adapter(tiny, tmp_path / "all", keys=keys)))
    assert len(str(refused.value)) <= 300


def broken(folder: Path, what: str) -> None:
    """Break an adapter's folder."""
    config, weights = folder / "adapter_config.json", folder / "adapters.safetensors"
    content = json.loads(config.read_text())
    if what == "full":
        config.write_text(json.dumps(content | {"fine_tune_type": "full"}))
    elif what == "no config":
        config.unlink()
    elif what == "no json":
        config.write_text("{")
    elif what == "no object":
        config.write_text("[]")
    elif what == "no parameters":
        config.write_text(json.dumps({"num_layers": 2}))
    elif what == "no scale":
        config.write_text(json.dumps(content | {"lora_parameters": {"rank": 4, "keys": DENSE}}))
    elif what == "no weights":
        weights.unlink()
    elif what == "cut weights":
        weights.write_bytes(weights.read_bytes()[:50])
    elif what == "other shape":
        loaded = mx.load(str(weights))
        mx.save_safetensors(str(weights), {name: mx.zeros((3, 3)) for name in loaded})
    else:
        mx.save_safetensors(str(weights), {"model.nowhere.lora_a": mx.zeros((3, 3))})


@pytest.mark.parametrize(
    "what",
    [
        "full", "no config", "no json", "no object", "no parameters", "no scale", "no weights",
        "cut weights", "other shape", "other names",
    ],
)  # fmt: skip
def test_a_broken_adapter_is_one_sentence(tiny, tmp_path, what):
    """It names the folder, and nothing stays loaded."""
    path = adapter(tiny, tmp_path / "adapter", keys=DENSE)
    broken(path, what)
    with pytest.raises(OutlierError, match="adapter") as refused:
        load(tiny, cache_experts=8, adapter=str(path))
    assert len(str(refused.value)) <= 300 and "\n" not in str(refused.value)
