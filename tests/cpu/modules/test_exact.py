"""Models that compute natively give mlx-lm's logits to float32's precision, and its tokens."""

from __future__ import annotations

import weakref

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.models.cache import make_prompt_cache

import outlier_jupyter
from outlier_jupyter import Interrupted
from outlier_jupyter.cpu import modules as native
from outlier_jupyter.cpu.modules import decoder_layer as layer
from outlier_jupyter.cpu.modules import token_loop
from outlier_jupyter.paging import Stopped
from outlier_jupyter.paging.switch import PagedSwitch
from outlier_jupyter.paging.token_paging import TokenPaging
from tests.cpu.modules.clear import CLEAR, Reference, choices, near
from tests.models import CANNOT, checkpoint, model_types
from tests.paging.test_exact import logits, prompt


def kinds(model: object) -> list[str]:
    """Names of the classes of all modules of a model that compute natively."""
    names = [type(module).__name__ for _, module in model.named_modules()]
    return sorted({name for name in names if name.startswith("Native")})


TYPES = [name for name in model_types() if name not in CANNOT]


@pytest.mark.parametrize("model_type", TYPES)
def test_logits_are_those_of_mlx_lm(model_type, tmp_path):
    """Prefill and decode of every type, whole layers or single modules, with few slots or all."""
    folder = checkpoint(model_type, tmp_path / "model")
    reference = Reference(load_unpaged(str(folder))[0])
    for slots in (3, 32):
        with outlier_jupyter.load(folder, cache_experts=slots, kernels="auto") as engine:
            for length in (1, 70):
                assert reference.agrees_with(engine.model, length)
            assert kinds(engine.model)


LAYERS = {
    "qwen3_moe": "NativeQwen3MoeDecoderLayer",
    "qwen2_moe": "NativeQwen2MoeDecoderLayer",
    "olmoe": "NativeTransformerBlock",
    "mixtral": "NativeMixtralDecoderLayer",
    "gpt_oss": "NativeTransformerBlock",
    "minimax": "NativeMiniMaxDecoderLayer",
    "glm4_moe": "NativeDecoderLayer",
    "qwen3_next": "NativeQwen3NextDecoderLayer",
    "qwen3_5_moe": "NativeDecoderLayer",
    "kimi_linear": "NativeKimiDecoderLayer",
    "deepseek_v3": "NativeDeepseekV3DecoderLayer",
    "deepseek_v32": "NativeDeepseekV32DecoderLayer",
    "glm4_moe_lite": "NativeGlm4MoeLiteDecoderLayer",
}


@pytest.mark.parametrize("model_type", LAYERS)
def test_known_layers_decode_whole(model_type, tmp_path):
    """The layers of known families are native as a whole, with all their modules."""
    folder = checkpoint(model_type, tmp_path / "model")
    with outlier_jupyter.load(folder, cache_experts=4, kernels="auto") as engine:
        found = kinds(engine.model)
    assert LAYERS[model_type] in found
    assert {"NativeQuantizedLinear", "NativeQuantizedEmbedding"} <= set(found)


def test_tokens_and_trace_are_those_of_the_plain_path():
    """The demo model's text and routing are the same, with half of its experts in RAM."""
    runs = []
    for kernels in ("auto", "mlx"):
        with outlier_jupyter.load("demo", cache_experts=96, kernels=kernels) as engine:
            with choices() as margins:
                runs.append(engine.generate("a a a a", raw=True, max_tokens=40))
            assert engine.status().kernels == ("cpu" if kernels == "auto" else "mlx")
    assert len(margins) > 40 * 7 and min(margins) > CLEAR
    fast, plain = runs
    assert fast.text == plain.text
    assert np.array_equal(fast.tokens, plain.tokens)
    # Within a token, experts come in the order of their weights; MLX's order is not defined.
    orders = [np.argsort(run.trace.experts, axis=-1) for run in runs]
    for name in ("experts", "hits", "weights"):
        columns = [
            np.take_along_axis(getattr(run.trace, name), order, axis=-1)
            for run, order in zip(runs, orders, strict=True)
        ]
        assert np.allclose(*columns, rtol=1e-3, atol=1e-4, equal_nan=True), name


def test_kv_caches_of_every_kind_give_the_same_text():
    """Caches that grow, rotate or are reused give the same text on both paths."""
    options_of_runs = [
        {"max_tokens": 280},
        {"max_kv_size": 16},
        {"reuse_kv": True},
        {"reuse_kv": True},
    ]
    texts = []
    for kernels in ("auto", "mlx"):
        with outlier_jupyter.load("demo", kernels=kernels) as engine:
            engine.tokenizer.eos_token_ids = set()
            with choices(routing=False) as margins:
                for options in options_of_runs:
                    settings = {"max_tokens": 30} | options
                    run = engine.generate("0, 1, 2, 3", raw=True, **settings)
                    texts.append(run.text)
    # Experts that tie have the same weight nearly: which is taken moves no token this clear.
    assert min(margins) > 20 * CLEAR
    assert texts[: len(options_of_runs)] == texts[len(options_of_runs) :]


def test_bits_are_mlx_lms_with_its_kernels(tiny):
    """`kernels="mlx"` changes no class and no bit."""
    reference, _ = load_unpaged(str(tiny))
    with outlier_jupyter.load(tiny, cache_experts=5, kernels="mlx") as engine:
        assert kinds(engine.model) == []
        assert np.array_equal(logits(engine.model, prompt(7)), logits(reference, prompt(7)))


def test_unquantised_and_half_precision_models_compute_natively(checkpoint_of):
    """Plain weights in float32 and bfloat16, which MLX's CPU cannot run, are near mlx-lm's.

    Of a model in bfloat16 keys and values are, too: within 3 × its rounding.
    """
    folder = checkpoint_of(bits=None)
    reference = Reference(load_unpaged(str(folder))[0])
    with outlier_jupyter.load(folder, cache_experts=5, kernels="auto") as engine:
        assert reference.agrees_with(engine.model, 33)
    half = checkpoint_of(bits=None, dtype=mx.bfloat16)
    plain, _ = load_unpaged(str(half))
    plain.set_dtype(mx.float32)
    with outlier_jupyter.load(half, cache_experts=5, kernels="auto") as engine:
        found, wanted = (logits(model, prompt(33)) for model in (engine.model, plain))
        assert np.abs(found - wanted).max() <= 3 * 2**-9 * np.abs(wanted).max()


def test_a_bank_of_another_size_is_computed_over(tiny):
    """After a resize the switches compute over the new bank, and the old one is freed."""
    reference = Reference(load_unpaged(str(tiny))[0])
    with outlier_jupyter.load(tiny, cache_experts=5, kernels="auto") as engine:
        assert reference.agrees_with(engine.model, 7)
        for slots in (9, 3):
            engine.resize(cache_experts=slots)
            assert reference.agrees_with(engine.model, 7)


def test_a_gpu_keeps_mlxs_kernels(monkeypatch):
    """Where MLX has a GPU, or `kernels="mlx"` is set, nothing is native."""
    assert native.wanted("auto")
    assert not native.wanted("mlx")
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    assert not native.wanted("auto")


@pytest.mark.parametrize("model_type", ["qwen3_moe", "deepseek_v3"])
def test_routing_is_changed_in_native_models_as_in_mlx_lms(model_type, tmp_path):
    """In whole native layers and in single native modules, the ids are the plain modules'."""
    folder = checkpoint(model_type, tmp_path / "model")
    traces = {}
    for kernels in ("mlx", "auto"):
        with outlier_jupyter.load(folder, cache_experts=6, kernels=kernels) as engine:
            engine.tokenizer.eos_token_ids = set()
            options = {"raw": True, "max_tokens": 4}
            plain = engine.generate("def f(x)", **options).trace
            changed = engine.generate("def f(x)", mask="0:0-4", top_k=3, **options).trace
            again = engine.generate("def f(x)", **options).trace
            np.testing.assert_array_equal(again.experts, plain.experts)
            np.testing.assert_array_equal(again.weights, plain.weights)
            traces[kernels] = changed
    for trace in traces.values():
        assert trace.experts.shape[2] == 3
        assert np.isin(trace.experts[:, 0], [5, 6, 7]).all()
        assert (trace.produced >= 0).sum() == 4
    ids = [np.sort(trace.experts, axis=2) for trace in traces.values()]
    np.testing.assert_array_equal(*ids)


def test_a_token_of_a_known_layer_passes_mlx_by(monkeypatch):
    """Its experts are computed from rows, never as a graph; ids and weights are recorded."""
    with outlier_jupyter.load("demo", cache_experts=96, kernels="auto") as engine:
        graphs = 0

        def graph(self, x, indices, whole=PagedSwitch.__call__):
            nonlocal graphs
            graphs += 1
            return whole(self, x, indices)

        monkeypatch.setattr(PagedSwitch, "__call__", graph)
        run = engine.generate("import os\n\ndef read_file", raw=True, max_tokens=6)
        layers = len(engine.info.experts_per_layer)
        prefills = int((run.trace.calls["phase"] == 0).sum())
    # The prompt's last token goes through the model alone, like each generated one.
    assert graphs == layers * (prefills - 1)
    assert np.isfinite(run.trace.weights).all() and (run.trace.experts >= 0).all()


CACHES = pytest.mark.parametrize("options", [{"resident": True}, {"cache_experts": 96}], ids=str)
"""All experts resident, or a cache for half of them."""


@CACHES
def test_a_token_passes_mlx_lms_loop_by(monkeypatch, options):
    """It does so from the second call after a prompt on, when the KV caches' room is known."""
    calls = {"layers": 0, "models": 0}

    def count(kind, name):
        whole = kind.__call__

        def counted(self, *args, **kwargs):
            calls[name] += 1
            return whole(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__call__", counted)

    with outlier_jupyter.load("demo", kernels="auto", **options) as engine:
        count(type(engine.model.model.layers[0]), "layers")
        count(type(engine.model.model), "models")
        run = engine.generate("import os\n\ndef read_file", raw=True, max_tokens=9)
        layers = len(engine.info.experts_per_layer)
    slow = calls["models"] - (len(run.tokens) - 1)  # the prompt, and its last token
    assert slow == 2 and calls["layers"] == layers * slow
    assert run.trace.hits.all() == ("resident" in options)
    assert (run.trace.calls["experts_ns"] > 0).all()


def test_embeddings_are_read_in_place_of_ids_if_there_are_any():
    """Given embeddings run through mlx-lm's own loop, with the same numbers."""
    found = []
    with outlier_jupyter.load("demo", resident=True, kernels="auto") as engine:
        whole, ids = engine.model.model, mx.array([[5]])
        for args in ((), (None,), (whole.embed_tokens(mx.array([[7]])),)):
            cache = make_prompt_cache(engine.model)
            for _ in range(3):  # after these, the caches' room is known
                whole(ids, cache)
            first = ids if args and args[0] is not None else mx.array([[7]])
            found.append(np.array(whole(first, cache, *args)))
    assert near(found[1], found[0]) and near(found[2], found[0])


@CACHES
def test_a_stop_between_two_layers_leaves_the_kv_cache_level(monkeypatch, options):
    """The next run continues from the tokens that all layers have, with a fresh run's text."""
    prompt, seen = "import os\n\ndef read_file", 0

    def stopping(self, whole=TokenPaging.check_running):
        nonlocal seen
        seen += 1
        if seen == 25:
            raise Stopped
        return whole(self)

    with outlier_jupyter.load("demo", kernels="auto", **options) as engine:
        wanted = engine.generate(prompt, raw=True, max_tokens=20).text
        with monkeypatch.context() as patch:
            patch.setattr(token_loop, "SLICE_NS", 0)  # checked after each layer
            patch.setattr(TokenPaging, "check_running", stopping)
            with pytest.raises(Interrupted):
                engine.generate(prompt, raw=True, max_tokens=20, reuse_kv=True)
        again = engine.generate(prompt, raw=True, max_tokens=20, reuse_kv=True)
    assert again.text == wanted


def test_layers_whose_experts_are_not_paged_are_not_whole():
    """A block that owns its experts receives MLX arrays, as in mlx-lm; its router is not read."""
    block = type("MixtralSparseMoeBlock", (nn.Module,), {"__module__": "mlx_lm.models.mixtral"})()
    block.switch_mlp = nn.Module()
    assert layer.feeds_of(block, {}) == (None, None)


def test_nothing_refers_to_a_bank_that_was_replaced(tmp_path):
    """After a resize nothing refers to the kernels over the old slots, so their memory is freed."""
    folder = checkpoint("qwen3_moe", tmp_path / "model")
    with outlier_jupyter.load(folder, resident=True, kernels="auto") as engine:
        engine.generate("Hello", max_tokens=3)
        before = [weakref.ref(switch.inner.connected()) for switch in _switches(engine)]
        assert before and all(kept() for kept in before)
        engine.resize(cache_experts=4)
        assert not any(kept() for kept in before)
        assert len(engine.generate("Hello", max_tokens=3).tokens) == 3


def _switches(engine) -> list[PagedSwitch]:
    return [module for _, module in engine.model.named_modules() if type(module) is PagedSwitch]
