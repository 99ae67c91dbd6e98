"""Contexts on disk: what was read once is not read again, and gives the same bits."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_unflatten

import outlier_jupyter
from outlier_jupyter.errors import OptionError
from outlier_jupyter.events import Routed
from outlier_jupyter.runs.run import Interrupted
from tests.models import checkpoint

DOCUMENT = "The engine keeps attention in RAM. " * 8
QUESTION = "What does it keep there?"
FAMILIES = ("deepseek_v3", "exaone_moe", "granitemoehybrid", "kimi_linear", "qwen3_moe")
"""Plain keys and values, latents, sliding windows, recurrent states of two kinds."""


@pytest.fixture
def engine(tiny):
    with outlier_jupyter.load(tiny, cache_experts=8) as engine:
        engine.tokenizer.eos_token_ids = set()
        yield engine


@pytest.fixture
def context(engine, tmp_path):
    return engine.save_context(DOCUMENT, tmp_path / "document.safetensors")


def read(run) -> int:
    """How many tokens of the prompt a run read."""
    return int((run.trace.phase == 0).sum())


def test_a_run_goes_on_from_a_context_as_if_it_had_read_all(engine, context):
    """The whole prompt's text and routing; of the document nothing is read, also in a branch."""
    assert engine.last_run is None  # reading a context is no run to explain
    whole = engine.generate(f"{DOCUMENT}\n\n{QUESTION}", max_tokens=6)
    run = engine.generate(QUESTION, context=context.path, max_tokens=6)
    assert run.text == whole.text and run.encoded == whole.encoded
    assert read(run) == read(whole) - len(context.tokens) and len(run.reused) == len(context.tokens)
    assert np.array_equal(run.trace.experts[-6:], whole.trace.experts[-6:])
    assert read(run.branch(3, rank=2)) == read(run) + 3


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_context_of_every_kind_of_cache_gives_the_same_bits(model_type, tmp_path):
    """As the cache that never left memory, where the prompt was read in the same parts."""
    folder = checkpoint(model_type, tmp_path / "model")
    with outlier_jupyter.load(folder, cache_experts=8, kernels="mlx", quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        context = engine.save_context(DOCUMENT, tmp_path / "context.safetensors", raw=True)
        engine.generate(DOCUMENT, raw=True, max_tokens=1, reuse_kv=True)
        before = engine.generate(DOCUMENT + QUESTION, raw=True, max_tokens=3, reuse_kv=True)
        run = engine.generate(QUESTION, context=context.path, raw=True, max_tokens=3)
        assert run.tokens.tolist() == before.tokens.tolist()
        assert np.array_equal(run.trace.logprobs[-3:], before.trace.logprobs[-3:])
        assert read(run) == read(before) < len(context.tokens)


def test_a_conversation_goes_on_behind_a_context(engine, tmp_path):
    """Messages follow messages; the system message is the context's."""
    before = [{"role": "user", "content": DOCUMENT}, {"role": "assistant", "content": "Noted."}]
    context = engine.save_context(before, tmp_path / "chat.safetensors", system="Be brief.")
    question = [{"role": "user", "content": QUESTION}]
    whole = engine.generate(before + question, system="Be brief.", max_tokens=5)
    for prompt in (QUESTION, question):
        run = engine.generate(prompt, context=context.path, max_tokens=5)
        assert run.text == whole.text and read(run) < read(whole) - 50
    with pytest.raises(OptionError, match="system stands before the context"):
        engine.generate(QUESTION, context=context.path, system="Be verbose.")


@pytest.mark.parametrize(
    "options", [{"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0}, {"max_kv_size": 32}]
)
def test_a_context_of_a_quantised_or_bounded_cache_is_used_with_the_same_options(
    engine, tmp_path, options
):
    """The same text as in memory; other options are refused with both values."""
    file = tmp_path / "context.safetensors"
    engine.save_context(DOCUMENT, file, raw=True, **options)
    engine.generate(DOCUMENT, raw=True, max_tokens=1, reuse_kv=True, **options)
    whole = engine.generate(DOCUMENT + "!", raw=True, max_tokens=5, reuse_kv=True, **options)
    assert engine.generate("!", raw=True, context=file, max_tokens=5, **options).text == whole.text
    with pytest.raises(OptionError, match=rf"{next(iter(options))}=\d+, and this run has"):
        engine.generate("!", raw=True, context=file)
    with pytest.raises(OptionError, match="mask"):
        engine.generate("!", raw=True, context=file, mask=["0:1"], **options)


def test_another_model_s_context_is_refused(engine, context, tmp_path):
    """The sentence names the model that is loaded."""
    other = checkpoint("olmoe", tmp_path / "other")
    with (
        outlier_jupyter.load(other, cache_experts=8, quiet=True) as another,
        pytest.raises(OptionError, match="is of another model or adapter than"),
    ):
        another.generate(QUESTION, context=context.path)


def test_a_stopped_reading_writes_nothing(engine, tmp_path):
    """An earlier file stays, and the engine goes on."""
    file = tmp_path / "context.safetensors"
    file.write_bytes(b"earlier")
    unsubscribe = engine.subscribe(lambda event: engine.stop(), Routed)
    with pytest.raises(Interrupted):
        engine.save_context(DOCUMENT, file)
    unsubscribe()
    assert file.read_bytes() == b"earlier" and not list(tmp_path.glob(".outlier*"))
    assert engine.generate(QUESTION, max_tokens=2).generated == 2


def test_a_context_that_cannot_be_written_says_so(engine, tmp_path):
    """One sentence, and the reading is not lost silently."""
    with pytest.raises(OptionError, match=r"the context could not be written to .* \(No such file"):
        engine.save_context("Short.", tmp_path / "missing" / "context.safetensors")


def rewritten(file, change) -> None:
    """Write the file again after a change of its arrays and metadata."""
    arrays, metadata = mx.load(str(file), return_metadata=True)
    mx.eval(arrays)
    change(arrays, metadata)
    mx.save_safetensors(str(file), arrays, metadata)


def longer_counter(arrays, metadata):
    arrays["0.2"] = mx.array(100_000)


def negative_counter(arrays, metadata):
    arrays["0.2"] = mx.array(-1)


def other_heads(arrays, metadata):
    arrays["1.0"] = mx.zeros((1, 7, 256, 32), arrays["1.0"].dtype)


def whole_numbers(arrays, metadata):
    arrays["1.1"] = arrays["1.1"].astype(mx.int32)


def endless_list(arrays, metadata):
    arrays["999999999.0"] = mx.zeros(1)


def other_kind(arrays, metadata):
    metadata["1.0"] = "RotatingKVCache"


def no_kind(arrays, metadata):
    metadata["1.0"] = "load_prompt_cache"


def fewer_layers(arrays, metadata):
    for name in [name for name in arrays if name.startswith("2.")]:
        del arrays[name]


def fewer_tokens(arrays, metadata):
    metadata["0.tokens"] = "[1, 2, 3]"


def no_tokens(arrays, metadata):
    metadata["0.tokens"] = "[[]]"


def no_options(arrays, metadata):
    metadata["0.options"] = "7"


@pytest.mark.parametrize(
    "change",
    [
        longer_counter, negative_counter, other_heads, whole_numbers, endless_list, other_kind,
        no_kind, fewer_layers, fewer_tokens, no_tokens, no_options,
    ],
)  # fmt: skip
def test_a_file_that_lies_is_refused_in_one_sentence(engine, context, change):
    """Nothing of it reaches the kernels, and the engine goes on."""
    rewritten(context.path, change)
    with pytest.raises(OptionError, match=r"KV cache|no context, or is damaged"):
        engine.generate(QUESTION, context=context.path, max_tokens=2)
    assert engine.generate(QUESTION, max_tokens=2).generated == 2


def test_a_file_that_is_cut_off_or_something_else_is_refused(engine, context, tmp_path):
    """Also a file of mlx-lm's own, which says nothing of its tokens."""
    data = context.path.read_bytes()
    for content in (data[: len(data) // 2], data[:9], b"", b"no header"):
        context.path.write_bytes(content)
        with pytest.raises(OptionError, match="no context, or is damaged"):
            engine.generate(QUESTION, context=context.path)
    mx.save_safetensors(str(context.path), {"0.0": mx.zeros(2)}, {"0.x": "y", "1.0": "KVCache"})
    with pytest.raises(OptionError, match="no context, or is damaged"):
        engine.generate(QUESTION, context=context.path)
    with pytest.raises(OptionError, match="cannot be read"):
        engine.generate(QUESTION, context=tmp_path / "nothing")


def test_a_context_is_mlx_lm_s_own_prompt_cache(engine, context):
    """mlx-lm loads the file, and finds the number of tokens in its caches."""
    arrays, metadata = mx.load(str(context.path), return_metadata=True)
    found = tree_unflatten(list(arrays.items()))
    assert len(found) == len(engine.kv_parts) == sum(name.startswith("1.") for name in metadata)
    assert all(int(layer[2].item()) == len(context.tokens) for layer in found)


@pytest.mark.parametrize("name", ["prefill_answer", "score_prompt", "context"])
def test_options_of_an_answer_have_no_place_in_a_context(engine, tmp_path, name):
    """Each is named."""
    value = True if name == "score_prompt" else "y"
    with pytest.raises(OptionError, match=f"{name} cannot be used when a context is saved"):
        engine.save_context(DOCUMENT, tmp_path / "x", **{name: value})
    with pytest.raises(OptionError, match="score_prompt reads the whole prompt"):
        file = engine.save_context("A.", tmp_path / "a").path
        engine.generate(QUESTION, context=file, score_prompt=True)
