"""mlx-lm's KV caches, quantised, rotating and reused, give mlx-lm's tokens and logits."""

from __future__ import annotations

import warnings

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

import outlier_jupyter
from outlier_jupyter.engine import sampling as sampling_module
from outlier_jupyter.errors import OptionError

TEXT = "the experts that are needed are read from the disk, and the others wait; " * 2


@pytest.fixture(scope="module")
def unpaged(tiny):
    return load_unpaged(str(tiny))[0]


@pytest.fixture
def logprobs(monkeypatch):
    """Collects the log-probabilities of every sampled token, as float32 [vocabulary]."""
    seen = []
    make = sampling_module.make_sampler

    def spying(*args, **options):
        sample = make(*args, **options)

        def spy(rows):
            seen.append(np.array(rows[0].astype(mx.float32)))
            return sample(rows)

        return spy

    monkeypatch.setattr(sampling_module, "make_sampler", spying)
    return seen


def by_mlx_lm(model, tokens, count, **options):
    """mlx-lm's own loop: its tokens and log-probabilities."""
    steps = generate_step(mx.array(tokens), model, max_tokens=count, **options)
    out = [(int(token), np.array(row.astype(mx.float32))) for token, row in steps]
    return [token for token, _ in out], np.stack([row for _, row in out])


SETTINGS = {
    "8 bits at once": {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0},
    "4 bits later": {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 100},
    "rotating in the prompt": {"max_kv_size": 64},
    "rotating in decode": {"max_kv_size": 150},
    "wide enough": {"max_kv_size": 400},
    "plain": {},
}


@pytest.mark.parametrize("chunk", [48, 2048])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_kind_of_kv_cache_is_mlx_lm_s(name, chunk, engine, unpaged, logprobs):
    """Tokens and log-probabilities equal mlx-lm's generate_step with the same options and chunk."""
    options = SETTINGS[name]
    run = engine.generate(TEXT, raw=True, max_tokens=12, prefill_chunk=chunk, **options)
    tokens = engine.tokenizer.encode(TEXT)
    expected, rows = by_mlx_lm(unpaged, tokens, 12, prefill_step_size=chunk, **options)
    assert run.tokens.tolist() == expected
    assert np.array_equal(np.stack(logprobs), rows)


@pytest.mark.parametrize("name", ["8 bits at once", "rotating in the prompt", "wide enough"])
def test_a_second_turn_goes_on_from_the_cache_as_mlx_lm_s_would(name, engine, unpaged, logprobs):
    """Reuse with each kind of cache: a turn reads only new tokens, with mlx-lm's exact logits."""
    options = SETTINGS[name] | {"prefill_chunk": 32}
    first = engine.generate(TEXT, raw=True, max_tokens=6, reuse_kv=True, **options)
    more = TEXT + engine.tokenizer.decode(first.tokens.tolist()) + " and more"
    logprobs.clear()
    second = engine.generate(more, raw=True, max_tokens=6, reuse_kv=True, **options)

    settings = {k: v for k, v in SETTINGS[name].items() if k != "max_kv_size"}
    kv = make_prompt_cache(unpaged, SETTINGS[name].get("max_kv_size"))
    tokens = engine.tokenizer.encode(TEXT)
    tokens_of_mlx_lm, _ = by_mlx_lm(
        unpaged, tokens, 6, prompt_cache=kv, prefill_step_size=32, **settings
    )
    assert tokens_of_mlx_lm == first.tokens.tolist()
    # mlx-lm computes one step ahead, so it has already read its last token; the engine has not.
    rest = engine.tokenizer.encode(more)[len(tokens) + 5 :]
    if kv[0].is_trimmable():
        trim_prompt_cache(kv, 1)
    else:
        rest = rest[1:]
    read = int((second.trace.phase == 0).sum())
    assert 0 < read <= len(rest) + 1 < len(tokens)
    if kv[0].is_trimmable():
        expected, rows = by_mlx_lm(
            unpaged, rest, 6, prompt_cache=kv, prefill_step_size=32, **settings
        )
        assert second.tokens.tolist() == expected
        assert np.array_equal(np.stack(logprobs), rows)


def test_caches_of_different_kinds_are_not_mixed(engine):
    """A plain run after a quantised one starts with an empty cache, and its output is the same."""
    text = "another beginning that nobody shares, " * 3
    plain = engine.generate(text, raw=True, max_tokens=4)
    quantised = {"kv_bits": 2, "kv_group_size": 32, "quantized_kv_start": 0}
    engine.generate(text, raw=True, max_tokens=4, reuse_kv=True, **quantised)
    again = engine.generate(text, raw=True, max_tokens=4, reuse_kv=True)
    assert again.tokens.tolist() == plain.tokens.tolist()
    assert len(again.trace.tokens) == len(plain.trace.tokens)


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, ""),
        ({"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0}, "KV cache of 8 bits"),
        ({"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 20},
         "KV cache of 4 bits from token 20 on"),
        ({"kv_bits": 4}, ""),  # the run ends long before token 5000
        ({"max_kv_size": 24}, "KV cache of the last 24 tokens"),
        ({"max_kv_size": 100}, ""),
    ],
)  # fmt: skip
def test_what_changes_the_output_is_labelled(options, label, engine):
    """The trace has a label exactly when the cache was quantised or dropped tokens."""
    run = engine.generate("x" * 30, raw=True, max_tokens=4, **options)
    assert run.trace.info.changed_output == label


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_bits": 7}, "kv_bits=7 is unknown: choose 2, 3, 4, 5, 6, 8"),
        ({"max_kv_size": 4}, "max_kv_size=4 is too small: give 5 or more"),
        ({"kv_bits": 4, "max_kv_size": 64, "quantized_kv_start": 0},
         "kv_bits=4 cannot be used with max_kv_size: mlx-lm cannot quantise a rotating KV cache"),
        ({"kv_bits": 4, "kv_group_size": 64, "quantized_kv_start": 0},
         "mlx-lm cannot run this model with a KV cache of 4 bits in groups of 64"),
    ],
)  # fmt: skip
def test_what_mlx_lm_cannot_do_is_one_sentence(options, message, engine):
    """The error says what to do, and the engine is unchanged."""
    with pytest.raises(OptionError) as refused:
        engine.generate("abc", raw=True, max_tokens=3, **options)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert engine.generate("abc", raw=True, max_tokens=1).generated == 1


def test_a_model_with_caches_of_its_own_says_what_cannot_be(checkpoint_of):
    """Sliding attention makes its own caches, which can be neither bounded nor quantised."""
    folder = checkpoint_of(
        model_type="gpt_oss", num_local_experts=8, num_hidden_layers=4, sliding_window=16,
        num_key_value_heads=2,
    )  # fmt: skip
    with outlier_jupyter.load(folder, cache_experts=5) as engine:
        with pytest.raises(OptionError, match="makes KV caches of its own kinds"):
            engine.generate("abc", raw=True, max_kv_size=32)
        with pytest.raises(OptionError, match="for this model's sliding attention"):
            engine.generate("abc", raw=True, kv_bits=8, quantized_kv_start=0)
        with pytest.raises(OptionError, match="for this model's sliding attention"):
            engine.generate("abc", raw=True, kv_bits=8, quantized_kv_start=10, max_tokens=20)
        assert engine.generate("abc", raw=True, kv_bits=8, max_tokens=1).generated == 1


def test_a_prompt_up_to_the_full_context_works_and_beyond_it_is_refused(checkpoint_of):
    """A prompt up to the config's context gives no warning; an answer beyond it gives one."""
    folder = checkpoint_of(max_position_embeddings=64)
    with outlier_jupyter.load(folder, cache_experts=5) as engine:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            engine.generate("x" * 60, raw=True, max_tokens=5)
            assert len(engine.last_run.trace.tokens) == 64
        with pytest.warns(UserWarning, match="61 tokens and max_tokens 5.*made for 64"):
            assert engine.generate("x" * 61, raw=True, max_tokens=5).generated == 5
        before = engine.last_run
        with pytest.raises(OptionError, match="65 tokens, and the model was made to read 64") as no:
            engine.generate("x" * 65, raw=True, max_tokens=1)
        assert len(str(no.value)) <= 300 and engine.last_run is before
        assert engine.generate("x" * 20, raw=True, max_tokens=1).generated == 1
    with (
        outlier_jupyter.load(folder, cache_experts=5, force=True) as engine,
        pytest.warns(UserWarning, match="65 tokens"),
    ):
        engine.generate("x" * 65, raw=True, max_tokens=1)
